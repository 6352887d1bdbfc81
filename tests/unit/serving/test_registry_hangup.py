"""A change whose client hangs up, and one that is ended half way: registry, state file and replicas stay of one mind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from rlft_core.serving.state import read_state
from services.serving.registry import Registry
from services.serving.routes import Reply, canary_of
from tests.unit.serving.registries import REQUEST, World, run


async def hang_up(change: Coroutine[Any, Any, Reply], loading: Callable[[], bool]) -> None:
    """As Serve does with the call of a client that is gone."""
    asked = asyncio.ensure_future(change)
    while not loading():
        await asyncio.sleep(0.005)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked


async def ended(registry: Registry) -> None:
    while (await registry.overview())[0]["changing"] is not None:
        await asyncio.sleep(0.005)


def test_a_change_whose_client_hangs_up_comes_to_its_end(runs_dir: Path, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        registry, replicas = world.registry, [await world.follow("m", name, seconds=0.1) for name in "ab"]
        for change, label in (
            (registry.promote("m", "second", 100.0), "second:sft"),
            (registry.rollback("m"), "first:sft"),
        ):
            await hang_up(change, lambda: any(replica.loading for replica in replicas))
            refused = await registry.rollback("m")
            assert (refused.status, refused.content["error"]["code"]) == (409, "change_in_progress")
            await ended(registry)
            assert (await registry.overview())[0]["checkpoint"] == label
            assert [route.checkpoint.label for route in await registry.routes()] == [label]
            assert read_state(world.state)["m"].current.label == label
            assert [replica.label for replica in replicas] == [label, label]

    run(runs_dir, tmp_path, test)


def test_when_it_fails_after_that_all_go_back(runs_dir: Path, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        good, bad = await world.follow("m", "a"), await world.follow("m", "b", seconds=0.1)
        bad.broken = {"second:sft"}
        await hang_up(world.registry.promote("m", "second", 100.0), lambda: bad.loading)
        await ended(world.registry)
        assert (await world.registry.wanted("m")).checkpoint.label == "first:sft"
        await asyncio.sleep(0.3)
        assert (good.label, bad.label) == ("first:sft", "first:sft")
        assert read_state(world.state)["m"].current.label == "first:sft"

    run(runs_dir, tmp_path, test)


def test_a_change_that_is_ended_puts_back_what_was(runs_dir: Path, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        registry, replica = world.registry, await world.follow("m", "a", seconds=0.1)
        asked = asyncio.ensure_future(registry.promote("m", "second", 100.0))
        while not replica.loading:
            await asyncio.sleep(0.005)
        assert registry._change_task is not None
        registry._change_task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert (await registry.wanted("m")).checkpoint.label == "first:sft"
        await asyncio.sleep(0.4)
        assert replica.label == "first:sft"
        assert (await registry.promote("m", "second", 100.0)).status == 200

    run(runs_dir, tmp_path, test)


def test_what_a_canary_needs_is_not_asked_for_in_the_name_of_a_request(runs_dir: Path, tmp_path: Path) -> None:
    """Serve would end it with the request of a client that hangs up, and the canary's replica would never come."""

    async def test(world: World) -> None:
        REQUEST.set("a promote")
        assert (await world.registry.promote("m", "second", 10.0)).status == 200
        assert world.held == [canary_of("m")]
        assert world.held_for == ["none"]

    run(runs_dir, tmp_path, test)
