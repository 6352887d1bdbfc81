"""A registry whose replicas are tasks, for the tests of what it does with them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rlft_core.serving.checkpoints import find_checkpoint, parse_spec
from rlft_core.serving.state import Served
from services.serving.registry import Registry
from services.serving.routes import Target

REQUEST: ContextVar[str] = ContextVar("request", default="none")  # Serve has one of the kind


class Follower:
    """A replica that needs `seconds` to load, and cannot load what has a label of `broken`."""

    def __init__(self, registry: Registry, pool: str, name: str, seconds: float, target: Target) -> None:
        self.registry, self.pool, self.name, self.seconds = registry, pool, name, seconds
        self.broken: set[str] = set()
        self.tried: list[str] = []
        self.version, self.labels = target.version, labels_of(target)
        self.loading = False
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while True:
            target = await self.registry.report(self.pool, self.name, 1, self.version)
            if target is not None and not self.loading:
                self.loading = True
                asyncio.ensure_future(self._load(target)).add_done_callback(lambda _: None)
            await asyncio.sleep(0.005)

    async def _load(self, target: Any) -> None:
        self.tried += labels_of(target).values()
        await asyncio.sleep(self.seconds)
        if self.broken & set(labels_of(target).values()):
            await self.registry.failed(self.pool, self.name, target.version, "the disk is gone")
        else:
            self.version, self.labels = target.version, labels_of(target)
        self.loading = False

    @property
    def label(self) -> str:
        (found,) = self.labels.values()
        return found


def labels_of(target: Target) -> dict[str, str]:
    return {name: checkpoint.label for name, checkpoint in target.models.items()}


class World:
    """A registry of model `m`, which stands for run `first`, or of some others."""

    def __init__(
        self,
        runs_dir: Path,
        state: Path,
        models: Mapping[str, str] = MappingProxyType({"m": "first"}),
        *,
        swap_s: float = 1.0,
    ) -> None:
        self.held: list[str] = []
        self.held_for: list[str] = []
        self.state = state
        self.replicas: list[Follower] = []
        served = [
            Served(name, spec, find_checkpoint(parse_spec(spec), runs_dir, state.parent))
            for name, spec in models.items()
        ]
        self.registry = Registry(served, runs_dir, state, hold=self._hold, swap_s=swap_s, start_s=1.0)

    async def follow(self, pool: str, name: str, seconds: float = 0.02) -> Follower:
        self.replicas.append(Follower(self.registry, pool, name, seconds, await self.registry.wanted(pool)))
        return self.replicas[-1]

    async def _hold(self, pool: str) -> None:
        """As Serve would: a request that is pending brings up a replica."""
        self.held.append(pool)
        self.held_for.append(REQUEST.get())
        replica = await self.follow(pool, "late")
        try:
            await asyncio.Event().wait()
        finally:
            replica.task.cancel()
            self.held.remove(pool)


def run(
    runs_dir: Path,
    tmp_path: Path,
    test: Callable[[World], Awaitable[None]],
    models: Mapping[str, str] = MappingProxyType({"m": "first"}),
    *,
    swap_s: float = 1.0,
) -> None:
    async def whole() -> None:
        world = World(runs_dir, tmp_path / "state.json", models, swap_s=swap_s)
        await world.registry.start()
        await asyncio.wait_for(test(world), 20.0)
        for replica in world.replicas:
            replica.task.cancel()

    asyncio.run(whole())
