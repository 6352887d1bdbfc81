"""The fleet with scripted engines in real actors: wrong weights, hung, dying and dead engines, lost weights."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest
import ray
import torch

from rlft_core.errors import EngineError, SyncError
from rlft_core.types import Prompt, RolloutGroup, Row
from services.rollout.actor import RolloutActor
from services.rollout.engine import EngineSettings, Sampling
from services.rollout.fleet import Fleet, WeightsLost
from services.rollout.member import FleetLimits
from services.weights.bundle import Manifest, Probe, flatten
from services.weights.publication import Publication
from tests.integration.support import kill

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("cluster")]

SETTINGS = EngineSettings("", "float32", 64, 8, 32, 0, 0.0, 1, True, False, False)
SAMPLING = Sampling(1.0, 8)
PROBE = Probe((1, 2, 3), np.full(2, -1.0, dtype=np.float32))  # what a scripted engine answers

Script = Callable[[str, int], dict[str, Any]]
"""(engine, life) -> options of the scripted engine in that life; {"kind": ...} asks for another kind."""


def fleet_of(size: int, script: Script | None = None, *, told: list[str] | None = None, **limits: Any) -> Fleet:
    actor = ray.remote(RolloutActor)

    def create(name: str, life: int) -> ray.actor.ActorHandle:
        options = {"kind": "fake"} | (script(name, life) if script else {})
        placed = actor.options(num_cpus=0.1, max_concurrency=100)
        return placed.remote(name, options.pop("kind"), SETTINGS, options)

    chosen = {"start_s": 60.0, "request_s": 60.0, "sync_s": 60.0, "max_restarts": 3, "probe_tolerance": 0.1} | limits
    names = [f"engine-{k}" for k in range(size)]
    return Fleet(names, create, limits=FleetLimits(**chosen), notice=(told if told is not None else []).append)


def publication(version: int = 1, *, probe: Probe | None = PROBE) -> Publication:
    manifest, chunks = flatten([("w", torch.arange(40.0))], version=version, dtype=torch.float32)
    return Publication(manifest, tuple(ray.put(chunk) for chunk in chunks), probe)


def prompts(count: int) -> list[Prompt]:
    return [Prompt(Row(str(k), "in", "out"), tuple(range(1, 4 + k)), 3, 1000 + 10 * k) for k in range(count)]


def run(fleet: Fleet, test: Callable[[Fleet], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        try:
            await asyncio.wait_for(fleet.start(), 60.0)
            await asyncio.wait_for(test(fleet), 60.0)
        finally:
            await fleet.stop()

    asyncio.run(whole())


async def answers(fleet: Fleet, asked: Sequence[Prompt]) -> list[RolloutGroup]:
    refs = await asyncio.gather(*fleet.generate(asked, SAMPLING))
    found: list[RolloutGroup] = ray.get(list(refs))
    return found


def tokens(groups: Sequence[RolloutGroup]) -> list[list[list[int]]]:
    return [[c.token_ids.tolist() for c in group.completions] for group in groups]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.02)


def test_more_engines_are_asked_the_same() -> None:
    found: dict[int, list[RolloutGroup]] = {}
    for size in (1, 3):

        async def test(fleet: Fleet, size: int = size) -> None:
            reports = await fleet.load(publication(4))
            assert [(r.version, r.probe_mean, r.num_bytes) for r in reports] == [(4, 0.0, 192)] * size
            found[size] = await answers(fleet, prompts(7))

        run(fleet_of(size), test)
    assert tokens(found[1]) == tokens(found[3])
    assert [group.prompt.row.id for group in found[3]] == list("0123456")
    assert {group.engine for group in found[3]} == {"engine-0", "engine-1", "engine-2"}
    assert {int(v) for group in found[3] for c in group.completions for v in c.versions} == {4}


def test_an_engine_that_disagrees_with_the_learner_is_barred_with_numbers() -> None:
    async def test(fleet: Fleet) -> None:
        with pytest.raises(
            SyncError, match=r"engine-1.*version 1.*2\.0000 nats.*2\.0000 at most.*0\.1 .*probe_tolerance"
        ):
            await fleet.load(publication())
        assert fleet.states()["engine-1"] == "suspect"

    run(fleet_of(2, lambda name, life: {"probe_logprob": -3.0 if name == "engine-1" else -1.0}), test)


def test_an_engine_whose_probe_is_no_number_is_barred() -> None:
    async def test(fleet: Fleet) -> None:
        with pytest.raises(SyncError, match="not finite"):
            await fleet.load(publication())

    run(fleet_of(1, lambda name, life: {"probe_logprob": float("nan")}), test)


def test_weights_that_are_not_whole_are_refused() -> None:
    async def test(fleet: Fleet) -> None:
        whole = publication(2)
        wrong = Manifest(2, "float32", whole.manifest.parameters, 100_000)
        with pytest.raises(SyncError, match="version 2 has 100000 bytes, got 192"):
            await fleet.load(Publication(wrong, whole.chunks, PROBE))

    run(fleet_of(1), test)


def test_an_engine_that_never_answers_is_replaced_and_its_prompts_are_asked_again() -> None:
    told: list[str] = []

    async def test(fleet: Fleet) -> None:
        await fleet.load(publication(probe=None))
        groups = await answers(fleet, prompts(4))
        assert [group.prompt.row.id for group in groups] == list("0123")
        assert fleet.num_restarts == 1
        await until(lambda: set(fleet.states().values()) == {"healthy"})

    hang: Script = lambda name, life: {"step_s": 300.0 if (name, life) == ("engine-0", 0) else 0.0}  # noqa: E731
    run(fleet_of(2, hang, told=told, request_s=1.5), test)
    assert "engine engine-0 died in 'generate'" in told[0]
    assert "within 1.5 s" in told[0]
    assert "is back after" in told[-1]


def test_a_killed_engine_loses_no_prompt_and_answers_none_twice() -> None:
    async def test(fleet: Fleet) -> None:
        await fleet.load(publication(3))
        pids = {found["name"]: found["pid"] for found in await fleet.info()}
        asked = asyncio.ensure_future(answers(fleet, prompts(6)))
        await asyncio.sleep(0.3)  # every step takes longer
        kill(pids["engine-0"])
        groups = await asked
        assert [group.prompt.row.id for group in groups] == list("012345")
        assert {group.engine for group in groups} == {"engine-1"}
        assert fleet.num_restarts == 1
        await until(lambda: fleet.states()["engine-0"] == "healthy")
        after = {found["name"]: found for found in await fleet.info()}
        assert after["engine-0"]["version"] == 3  # nobody loaded it but the restart
        assert after["engine-0"]["pid"] != pids["engine-0"]

    run(fleet_of(2, lambda name, life: {"step_s": 1.0}), test)


def test_an_engine_that_dies_while_it_loads_comes_back_with_the_newest_weights() -> None:
    told: list[str] = []

    async def test(fleet: Fleet) -> None:
        reports = await fleet.load(publication(1))
        assert [report.engine for report in reports] == ["engine-1"]
        await fleet.load(publication(2))
        await until(lambda: set(fleet.states().values()) == {"healthy"})
        assert [found["version"] for found in await fleet.info()] == [2, 2]

    # Its first request is the probe.
    run(fleet_of(2, lambda name, life: {"fail_after": 0} if (name, life) == ("engine-0", 0) else {}, told=told), test)
    assert "engine engine-0 died in 'load'" in told[0]
    assert "scripted failure" in told[0]


def test_a_life_in_which_an_engine_cannot_start_is_lost_and_the_next_is_tried() -> None:
    told: list[str] = []
    script: Script = lambda name, life: [{"fail_after": 1}, {"kind": "no such engine"}, {}][life]  # noqa: E731

    async def test(fleet: Fleet) -> None:
        await fleet.load(publication())
        groups = await answers(fleet, prompts(2))
        assert [group.prompt.row.id for group in groups] == ["0", "1"]
        assert fleet.num_restarts == 2

    run(fleet_of(1, script, told=told), test)
    assert [note for note in told if "died in 'restart'" in note]


def test_when_every_life_of_every_engine_is_lost_the_run_ends_and_says_so() -> None:
    async def test(fleet: Fleet) -> None:
        await fleet.load(publication())
        with pytest.raises(
            EngineError, match=r"no engine is left \(engine-0, engine-1\).*1 times.*rollout\.max_restarts"
        ):
            await answers(fleet, prompts(3))
        assert set(fleet.states().values()) == {"dead"}
        assert fleet.num_restarts == 2

    run(
        fleet_of(2, lambda name, life: {"fail_after": 1}, max_restarts=1), test
    )  # the probe is the only one it survives


def test_an_engine_that_cannot_start_at_all_is_an_error_at_once() -> None:
    fleet = fleet_of(1, lambda name, life: {"kind": "no such engine"})
    with pytest.raises(EngineError, match=r"engine-0 could not start.*no such engine"):
        run(fleet, lambda fleet: asyncio.sleep(0))


@ray.remote(num_cpus=0)
class Owner:
    """Stands for a learner: its objects die with it."""

    def publish(self) -> list[ray.ObjectRef]:
        self.kept = [ray.put(np.zeros(200_000, dtype=np.uint8))]
        return self.kept


def gone(ref: ray.ObjectRef) -> bool:
    """Ray notices an owner's death and drops its objects in its own time."""
    try:
        ray.get(ref, timeout=0.1)
    except ray.exceptions.GetTimeoutError:
        return False
    except ray.exceptions.ObjectLostError:
        return True
    return False


def test_weights_whose_owner_died_are_lost_and_the_next_ones_are_taken() -> None:
    async def test(fleet: Fleet) -> None:
        owner = Owner.remote()
        chunks = tuple(await owner.publish.remote())
        ray.kill(owner)
        await until(lambda: gone(chunks[0]))
        with pytest.raises(WeightsLost, match="version 5 are gone"):
            await fleet.load(Publication(Manifest(5, "float32", (), 200_000), chunks, PROBE))
        await fleet.load(publication(6))
        assert [found["version"] for found in await fleet.info()] == [6, 6]
        assert fleet.num_restarts == 0

    run(fleet_of(2), test)


def test_a_load_does_not_wait_for_an_engine_whose_weights_are_gone() -> None:
    """Owner and only engine died together: the load says so when the engine's next life finds nothing to load."""

    async def test(fleet: Fleet) -> None:
        owner = Owner.remote()
        chunks = tuple(await owner.publish.remote())
        (engine,) = fleet.actors()
        kill(engine["pid"])
        ray.kill(owner)
        await until(lambda: gone(chunks[0]))
        with pytest.raises(WeightsLost, match="version 5 are gone"):
            await fleet.load(Publication(Manifest(5, "float32", (), 200_000), chunks, PROBE))
        await fleet.load(publication(6))
        assert [found["version"] for found in await fleet.info()] == [6]
        assert fleet.num_restarts == 1

    run(fleet_of(1), test)


def test_a_prompt_that_does_not_fit_is_an_error_and_kills_no_engine() -> None:
    async def test(fleet: Fleet) -> None:
        await fleet.load(publication())
        with pytest.raises(EngineError, match="prompt of 63 tokens exceeds 64"):
            await answers(fleet, [Prompt(Row("long", "", ""), tuple(range(63)), 1, 0)])
        assert fleet.states() == {"engine-0": "healthy"}
        assert len(await answers(fleet, prompts(2))) == 2

    run(fleet_of(1), test)
