"""The fleet when things cross: a death and a report, an end and a call, a leave and a load. Engines answer when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError, RayTaskError

from rlft_core.errors import DeadlineError, EngineError, SyncError
from rlft_core.types import Prompt, Row
from services.rollout.actor import GroupSummary, SyncReport
from services.rollout.engine import Sampling
from services.rollout.fleet import Fleet
from services.rollout.member import FleetLimits, Member
from services.rollout.states import EngineState
from services.weights.bundle import Manifest
from services.weights.publication import Publication

SAMPLING = Sampling(1.0, 8)
SUMMARY = GroupSummary("engine-0", 1, 1.0, (0.0, 1.0))
REFUSAL = RayTaskError("load", "", SyncError("it could not take the weights"), proctitle="e", pid=1, ip="127.0.0.1")


class Method:
    """A method of an actor: every call waits in `open` for a test to answer it."""

    def __init__(self, engine: Engine, *, pair: bool = False) -> None:
        self._engine = engine
        self._pair = pair
        self.open: list[asyncio.Future[Any]] = []

    def remote(self, *_: Any) -> Any:
        call: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.open.append(call)
        if self._engine.killed:
            call.set_exception(RayActorError())
        return (call, "ref") if self._pair else call


class Engine:
    """An actor that is started at once; its end fails what it was asked, as Ray has it."""

    def __init__(self, name: str, life: int) -> None:
        self.name, self.life = name, life
        self.killed = False
        self.info, self.load = Method(self), Method(self)
        self.generate, self.judge = Method(self, pair=True), Method(self, pair=True)

    def die(self) -> None:
        self.killed = True
        for method in (self.info, self.load, self.generate, self.judge):
            for call in method.open:
                if not call.done():
                    call.set_exception(RayActorError())

    def start(self) -> None:
        self.info.open[-1].set_result({"node": "n", "pid": 1})

    def report(self, version: int) -> None:
        self.load.open[-1].set_result(SyncReport(self.name, version, 0.0, 0, 0.0, 0.0))


class World:
    """A fleet, its engines in the order of their making, and what a person would have read."""

    def __init__(self, size: int, *, frozen: bool = False, **limits: float) -> None:
        self.engines: list[Engine] = []
        self.told: list[str] = []
        chosen: dict[str, Any] = {"start_s": 20.0, "request_s": 20.0, "sync_s": 20.0, "max_restarts": 3} | limits
        names = [f"engine-{k}" for k in range(size)]
        limited = FleetLimits(**chosen, probe_tolerance=0.1)
        self.fleet = Fleet(names, self._create, limits=limited, notice=self.told.append, frozen=frozen)

    def _create(self, name: str, life: int) -> Any:
        self.engines.append(Engine(name, life))
        return self.engines[-1]

    async def start(self) -> None:
        starting = await begun(self.fleet.start())
        for engine in self.engines:
            engine.start()
        await starting

    async def load(self, version: int) -> list[SyncReport]:
        loading = await begun(self.fleet.load(publication(version)))
        for engine in self.engines:
            engine.report(version)
        return await loading


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no Ray here that could end an engine."""
    monkeypatch.setattr(ray, "kill", lambda engine, no_restart: engine.die())


def publication(version: int) -> Publication:
    return Publication(Manifest(version, "float32", (), 0), (), None)


def prompts(count: int) -> list[Prompt]:
    return [Prompt(Row(str(k), "in", "out"), (1,), 1, k) for k in range(count)]


def run(world: Callable[[], World], test: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        made = world()
        await asyncio.wait_for(test(made), 10.0)
        await made.fleet.stop()

    asyncio.run(whole())


async def begun(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task that has gone as far as it can."""
    task = asyncio.ensure_future(work)
    await idle()
    return task


async def idle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("max_restarts", [0, 3])
@pytest.mark.parametrize("refused", [False, True])
def test_what_an_engine_said_of_weights_before_it_died_does_not_count(refused: bool, max_restarts: int) -> None:
    async def test(world: World) -> None:
        await world.start()
        await world.load(0)
        engine, other = world.engines
        sampling = world.fleet.generate(prompts(2), SAMPLING)
        await idle()
        loading = await begun(world.fleet.load(publication(1)))
        engine.generate.open[0].set_exception(RayActorError())  # it died ...
        if refused:
            engine.load.open[-1].set_exception(REFUSAL)
        else:
            engine.report(1)  # ... just after it had answered
        other.report(1)
        assert [report.engine for report in await loading] == ["engine-1"]
        assert world.fleet.states() == {"engine-0": "restarting" if max_restarts else "dead", "engine-1": "healthy"}
        assert world.told[0].startswith("engine engine-0 died in 'generate': ")
        for task in sampling:
            task.cancel()

    run(lambda: World(2, max_restarts=max_restarts), test)


def test_an_engine_that_was_ended_with_its_fleet_is_not_started_again() -> None:
    """One load fails the run; the other is still on its way when everything is stopped."""

    async def test(world: World) -> None:
        await world.start()
        loading = await begun(world.fleet.load(publication(0)))
        world.engines[0].load.open[0].set_exception(REFUSAL)
        with pytest.raises(SyncError, match="could not take the weights"):
            await loading
        await world.fleet.stop()
        await idle()
        assert [engine.killed for engine in world.engines] == [True, True]
        assert world.told == []

    run(lambda: World(2), test)


@pytest.mark.parametrize("frozen", [True, False])
def test_who_waits_for_a_stopped_fleet_hears_of_it_at_once(frozen: bool) -> None:
    """For an answer, where engines hold weights from the start, or for a healthy engine."""

    async def test(world: World) -> None:
        await world.start()
        judging = await begun(world.fleet.judge("group", None))  # type: ignore[arg-type]
        await world.fleet.stop()
        with pytest.raises(EngineError, match="the engines were stopped"):
            await judging
        with pytest.raises(EngineError, match="the engines were stopped"):
            await asyncio.gather(*world.fleet.generate(prompts(1), SAMPLING))
        assert len(world.engines) == 1
        assert world.told == []

    run(lambda: World(1, frozen=frozen), test)


def test_a_deadline_shows_how_the_engines_are_at_its_end() -> None:
    async def test(world: World) -> None:
        judging = await begun(world.fleet.judge("group", None))  # type: ignore[arg-type]
        starting = await begun(world.fleet.start())
        world.engines[0].start()
        await starting
        late = r"fleet did not finish 'waiting for a healthy engine' within 0\.5 s; last progress: engine-0: stale$"
        with pytest.raises(DeadlineError, match=late):
            await judging

    run(lambda: World(1, start_s=0.5), test)


def test_a_deadline_shows_what_was_in_flight_at_its_end() -> None:
    async def test(world: World) -> None:
        await world.start()
        first, second = world.fleet.generate(prompts(2), SAMPLING)
        await idle()
        world.engines[0].generate.open[0].set_result(SUMMARY)
        assert await first == "ref"
        await until(lambda: bool(world.told))
        assert world.told[0].endswith("did not finish 'generate' within 0.5 s; last progress: 1 groups in flight")
        second.cancel()

    run(lambda: World(1, frozen=True, request_s=0.5), test)


def test_an_engine_that_leaves_while_it_loads_has_left_and_not_died() -> None:
    async def test(world: World) -> None:
        await world.start()
        loading = await begun(world.fleet.load(publication(0)))
        world.fleet.resize(1)
        world.engines[0].report(0)
        assert [report.engine for report in await loading] == ["engine-0"]
        assert world.engines[1].killed
        assert world.told == ["engine engine-1 left"]

    run(lambda: World(2), test)


def test_an_engine_that_leaves_while_it_starts_again_has_left_and_not_died() -> None:
    async def test(world: World) -> None:
        await world.start()
        (sampling,) = world.fleet.generate(prompts(1), SAMPLING)
        await idle()
        world.engines[0].die()
        await until(lambda: len(world.engines) == 3)
        world.fleet.resize(1)
        await until(lambda: world.engines[2].killed)
        await idle()
        assert [text.split(":")[0] for text in world.told] == [
            "engine engine-0 died in 'generate'",
            "engine engine-0 left",
        ]
        sampling.cancel()

    run(lambda: World(2, frozen=True), test)


def test_weights_that_an_earlier_life_took_are_not_those_of_this_one() -> None:
    member = Member("engine-0", Engine("engine-0", 1), EngineState.STALE, incarnation=1)
    assert member.awaits_weights(1)
    assert not member.awaits_weights(0)
    member.move(EngineState.LEAVING)
    assert not member.awaits_weights(1)
