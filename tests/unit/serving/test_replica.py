"""How a replica follows the registry: what it loads, what it need not load, and what is heard of what it cannot load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from rlft_core.errors import EngineError
from services.serving.registry import Registry
from services.serving.replica import Replica
from services.serving.routes import Target
from tests.unit.serving.registries import World, run


class Remote:
    """A method as Serve's handles have it."""

    def __init__(self, method: Callable[..., Awaitable[Any]]) -> None:
        self.remote = method


class Handle:
    """The registry's, without Serve."""

    def __init__(self, registry: Registry) -> None:
        self.wanted = Remote(registry.wanted)
        self.report = Remote(registry.report)
        self.failed = Remote(registry.failed)


class Scripted(Replica):
    """Writes down what it loads, and cannot load what there is an error for."""

    def __init__(self, registry: Registry) -> None:
        super().__init__("m", Handle(registry), "a")
        self.loaded: list[str] = []
        self.errors: dict[str, Exception] = {}

    async def _exchange(self, target: Target) -> None:
        self.loaded.append(target.checkpoint.label)
        if target.checkpoint.label in self.errors:
            raise self.errors[target.checkpoint.label]


@asynccontextmanager
async def following(registry: Registry) -> AsyncIterator[Scripted]:
    replica = Scripted(registry)
    await replica._wanted()
    replica._follow()
    assert replica._following is not None
    try:
        yield replica
    finally:
        replica._following.cancel()


async def current(registry: Registry) -> None:
    """Until it says that it holds what is wanted."""
    while [one["current"] for one in (await registry.overview())[0]["replicas"]] != [True]:
        await asyncio.sleep(0.02)


def test_what_is_promoted_is_loaded_once_and_so_is_what_was_before(runs_dir: Path, tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async with following(world.registry) as replica:
            await current(world.registry)
            assert replica.loaded == []
            assert (await world.registry.promote("m", "second", 100.0)).status == 200
            assert (await world.registry.rollback("m")).status == 200
            assert replica.loaded == ["second:sft", "first:sft"]

    run(runs_dir, tmp_path, test, swap_s=8.0)


@pytest.mark.parametrize(
    "error, said",
    [
        (EngineError("the disk is gone"), "the disk is gone"),
        (torch.OutOfMemoryError("CUDA out of memory"), "OutOfMemoryError: CUDA out of memory"),
    ],
)
def test_whatever_a_load_fails_with_is_told_and_what_is_still_held_is_not_loaded_again(
    error: Exception, said: str, runs_dir: Path, tmp_path: Path
) -> None:
    async def test(world: World) -> None:
        async with following(world.registry) as replica:
            await current(world.registry)
            # Memory does not suffice for the old one beside itself either.
            replica.errors = {"second:sft": error, "first:sft": error}
            reply = await world.registry.promote("m", "second", 100.0)
            assert reply.status == 500
            told = reply.content["error"]["message"]
            assert told == f"second:sft was not taken, and first:sft stays: {said}"
            await current(world.registry)
            assert replica.loaded == ["second:sft"]

    run(runs_dir, tmp_path, test, swap_s=8.0)
