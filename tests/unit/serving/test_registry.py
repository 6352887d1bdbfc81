"""How a change is carried out: replica by replica, one at a time, and back again when it fails."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import MappingProxyType

import pytest

from rlft_core.serving.state import read_state
from services.serving.registry import Registry
from services.serving.routes import canary_of
from tests.unit.serving.registries import World, labels_of, run


def test_a_promote_reaches_all_replicas_one_after_the_other_and_a_rollback_undoes_it(
    runs_dir: Path, tmp_path: Path
) -> None:
    async def test(world: World) -> None:
        replicas = [await world.follow("m", name) for name in "abc"]
        loading: list[int] = []

        async def watch() -> None:
            while True:
                loading.append(sum(replica.loading for replica in replicas))
                await asyncio.sleep(0.001)

        watching = asyncio.ensure_future(watch())
        reply = await world.registry.promote("m", "second", 100.0)
        watching.cancel()
        assert reply.status == 200
        assert reply.content["checkpoint"] == "second:sft"
        assert reply.content["before"] == ["first:sft"]
        assert {replica.label for replica in replicas} == {"second:sft"}
        assert max(loading) == 1
        assert read_state(world.state)["m"].current.label == "second:sft"
        reply = await world.registry.rollback("m")
        assert (reply.status, reply.content["checkpoint"]) == (200, "first:sft")
        assert {replica.label for replica in replicas} == {"first:sft"}
        assert read_state(world.state)["m"].history == ()

    run(runs_dir, tmp_path, test)


def test_a_new_replica_starts_with_what_was_promoted(runs_dir: Path, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert (await world.registry.promote("m", "second", 100.0)).status == 200
        assert (await world.follow("m", "new")).label == "second:sft"

    run(runs_dir, tmp_path, test)


def test_a_change_during_a_change_is_refused(runs_dir: Path, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.follow("m", "a", seconds=0.3)
        first = asyncio.ensure_future(world.registry.promote("m", "second", 100.0))
        await asyncio.sleep(0.05)
        for reply in (await world.registry.promote("m", "first@4", 100.0), await world.registry.rollback("m")):
            assert reply.status == 409
            told = reply.content["error"]["message"]
            assert told == "model 'm' is just being changed to second; wait for its end and ask again"
        assert (await first).status == 200
        assert (await world.registry.rollback("m")).status == 200

    run(runs_dir, tmp_path, test)


def test_when_a_replica_cannot_load_it_all_go_back(runs_dir: Path, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        good, bad = await world.follow("m", "a"), await world.follow("m", "b")
        bad.broken = {"second:sft"}
        reply = await world.registry.promote("m", "second", 100.0)
        assert reply.status == 500
        told = reply.content["error"]["message"]
        assert told == "second:sft was not taken, and first:sft stays: the disk is gone"
        await asyncio.sleep(0.2)
        assert (good.label, bad.label) == ("first:sft", "first:sft")
        assert read_state(world.state)["m"].current.label == "first:sft"
        bad.broken = set()
        assert (await world.registry.promote("m", "second", 100.0)).status == 200

    run(runs_dir, tmp_path, test)


def test_a_replica_that_does_not_come_to_an_end_is_not_waited_for_for_ever(runs_dir: Path, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.follow("m", "a", seconds=60.0)
        reply = await world.registry.promote("m", "second", 100.0)
        assert reply.status == 500
        assert "0 of 1 replicas had loaded it after 1 s" in reply.content["error"]["message"]

    run(runs_dir, tmp_path, test)


def test_a_canary_gets_a_replica_of_its_own_for_as_long_as_it_is(runs_dir: Path, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        main = await world.follow("m", "a")
        reply = await world.registry.promote("m", "second", 10.0)
        assert (reply.content["checkpoint"], reply.content["canary"], reply.content["percent"]) == (
            "first:sft",
            "second:sft",
            10.0,
        )
        assert world.held == [canary_of("m")]
        assert [replica.label for replica in world.replicas] == ["first:sft", "second:sft"]
        (route,) = await world.registry.routes()
        assert (route.canary_pool, route.percent) == ("m#canary", 10.0)
        assert (await world.registry.promote("m", "second", 100.0)).content["canary"] is None
        await asyncio.sleep(0.05)
        assert (main.label, world.held) == ("second:sft", [])

    run(runs_dir, tmp_path, test)


def test_a_canary_of_before_a_restart_gets_its_replica_again(runs_dir: Path, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert (await world.registry.promote("m", "second", 10.0)).status == 200
        again = World(runs_dir, tmp_path / "state-2.json")
        again.registry = Registry(
            list(read_state(world.state).values()),
            runs_dir,
            tmp_path / "state-2.json",
            hold=again._hold,
            swap_s=1.0,
            start_s=1.0,
        )
        await again.registry.start()
        await asyncio.sleep(0.05)
        assert again.held == [canary_of("m")]
        assert [replica.label for replica in again.replicas] == ["second:sft"]

    run(runs_dir, tmp_path, test)


@pytest.mark.parametrize(
    "name, spec, status, said",
    [
        ("other", "second", 404, "there is no model 'other'; there are: m"),
        ("m", "third", 422, "there is no run 'third'"),
        ("m", "../second", 422, "they are not paths"),
        ("m", "first:reward_model", 422, "first:reward_model is a reward model and first:sft a policy model"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_changes(
    name: str, spec: str, status: int, said: str, runs_dir: Path, tmp_path: Path
) -> None:
    async def test(world: World) -> None:
        reply = await world.registry.promote(name, spec, 100.0)
        assert reply.status == status
        assert said in reply.content["error"]["message"]

    run(runs_dir, tmp_path, test)


def test_who_is_silent_for_long_is_not_waited_for(runs_dir: Path, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        registry = Registry(
            list(read_state(world.state).values()),
            runs_dir,
            world.state,
            hold=world._hold,
            swap_s=5.0,
            start_s=1.0,
            silent_s=0.2,
        )
        assert await registry.report("m", "gone", 7, 0) == await registry.wanted("m")
        assert (await registry.overview())[0]["replicas"] == [{"replica": "gone", "pid": 7, "current": False}]
        assert await registry.report("m", "other", 8, 0) is None  # it is the first one's turn
        await asyncio.sleep(0.3)
        assert await registry.report("m", "other", 8, 0) is not None
        await asyncio.sleep(0.3)
        assert (await registry.promote("m", "second", 100.0)).status == 200
        assert (await registry.overview())[0]["replicas"] == []

    run(runs_dir, tmp_path, test)


def test_a_replica_that_dies_of_a_checkpoint_does_not_take_the_others_with_it(runs_dir: Path, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        registry = world.registry
        for pool in registry._pools.values():
            pool.silent_s = 0.3
        mortal, other = await world.follow("m", "a", seconds=60.0), await world.follow("m", "b", seconds=60.0)
        change = asyncio.ensure_future(registry.promote("m", "second", 100.0))
        while not (mortal.loading or other.loading):
            await asyncio.sleep(0.005)
        (mortal if mortal.loading else other).task.cancel()
        reply = await change
        assert reply.status == 500
        assert "first:sft stays: a replica was lost while it loaded it" in reply.content["error"]["message"]
        tried = [label for replica in (mortal, other) for label in replica.tried]
        assert tried.count("second:sft") == 1
        assert (await registry.wanted("m")).checkpoint.label == "first:sft"

    run(runs_dir, tmp_path, test)


ADAPTERS = MappingProxyType({"a": "low", "b": "high"})


def test_a_promote_of_one_adapter_leaves_the_others_of_its_engine_alone(runs_dir: Path, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        engine = await world.follow("a+b", "one")
        reply = await world.registry.promote("a", "low@4", 100.0)
        assert (reply.status, reply.content["shares_engines_with"]) == (200, ["b"])
        assert engine.labels == {"a": "low:sft@4", "b": "high:sft"}
        assert {route.model: (route.pool, route.canary_pool) for route in await world.registry.routes()} == {
            "a": ("a+b", "a+b#canary"),
            "b": ("a+b", "a+b#canary"),
        }
        engine.broken = {"high:sft@4"}
        reply = await world.registry.promote("b", "high@4", 100.0)
        assert (reply.status, reply.content["error"]["code"]) == (500, "not_changed")
        await asyncio.sleep(0.1)
        assert engine.labels == {"a": "low:sft@4", "b": "high:sft"}

    run(runs_dir, tmp_path, test, ADAPTERS)


def test_an_engine_of_adapters_holds_their_canaries_too(runs_dir: Path, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        engine = await world.follow("a+b", "one")
        plain = {"a": "low:sft", "b": "high:sft"}
        reply = await world.registry.promote("a", "low@4", 10.0)
        assert (reply.status, reply.content["canary"], len(reply.content["canary_replicas"])) == (200, "low:sft@4", 1)
        assert engine.labels == plain | {"a#canary": "low:sft@4"}
        assert reply.content["shares_engines_with"] == ["b"]
        engine.broken = {"high:sft@4"}
        reply = await world.registry.promote("b", "high@4", 20.0)
        assert reply.content["error"]["message"] == "high:sft@4 was not taken: the disk is gone"
        await asyncio.sleep(0.1)
        assert engine.labels == plain | {"a#canary": "low:sft@4"}
        engine.broken = set()
        assert (await world.registry.promote("b", "high@4", 20.0)).status == 200
        assert engine.labels == plain | {"a#canary": "low:sft@4", "b#canary": "high:sft@4"}
        assert (await world.registry.rollback("a")).content["canary_replicas"] == []
        await asyncio.sleep(0.1)
        assert engine.labels == plain | {"b#canary": "high:sft@4"}
        assert (await world.registry.promote("b", "high@4", 100.0)).status == 200
        await asyncio.sleep(0.1)
        assert engine.labels == plain | {"b": "high:sft@4"}
        assert world.held == []
        assert len(world.replicas) == 1

    run(runs_dir, tmp_path, test, ADAPTERS)


def test_an_adapters_canary_of_before_a_restart_is_held_again(runs_dir: Path, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.follow("a+b", "one")
        assert (await world.registry.promote("a", "low@4", 10.0)).status == 200
        models = list(read_state(world.state).values())
        again = Registry(models, runs_dir, tmp_path / "2.json", hold=world._hold, swap_s=1.0, start_s=1.0)
        await again.start()
        assert labels_of(await again.wanted("a+b")) == {"a": "low:sft", "b": "high:sft", "a#canary": "low:sft@4"}
        assert world.held == []

    run(runs_dir, tmp_path, test, ADAPTERS)


def test_an_adapter_that_does_not_fit_is_refused_before_anything_changes(runs_dir: Path, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        reply = await world.registry.promote("a", "high", 100.0)
        assert reply.status == 422
        assert "its rank is 12, and the engine has room for 4" in reply.content["error"]["message"]
        reply = await world.registry.promote("a", "second", 100.0)
        assert "it is a whole model, not an adapter of" in reply.content["error"]["message"]

    run(runs_dir, tmp_path, test, {"a": "low"})
