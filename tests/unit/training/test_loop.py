"""The loop with parts that only say what a test needs: what becomes of batches that are sampled ahead when it ends early."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from rlft_core.errors import LearnerError
from services.training.loop import run_loop


class Parts:
    """Stands for the services of a stage, whose learner fails in its first step or whose sync in its second."""

    world_size = 1
    stopped = False
    sampling = None

    def __init__(self, fails: str) -> None:
        self.learner = self.prompts = self.observe = self.rollouts = self.watch = self
        self.fails = fails
        self.asked: list[asyncio.Future[Any]] = []

    async def start(self) -> int:
        return 0

    @contextmanager
    def step(self, step: int) -> Iterator[Any]:
        @contextmanager
        def clock(phase: str) -> Iterator[None]:
            yield

        clock.record = lambda metrics: None  # type: ignore[attr-defined]
        yield clock

    async def sync(self) -> list[Any]:
        if self.fails == "sync" and self.asked:
            raise LearnerError("no weights")
        return []

    async def look(self, step: int) -> None:
        return None

    async def unless_restarted(self, work: Awaitable[Any]) -> Any:
        return await work

    def batch(self, step: int) -> list[int]:
        return [step]

    def generate(self, batch: list[int], sampling: Any) -> list[asyncio.Future[Any]]:
        """Only the first batch is ever there."""
        self.asked.append(asyncio.get_running_loop().create_future())
        if batch == [0]:
            self.asked[-1].set_result("ref")
        return self.asked[-1:]

    async def scored(self, prompt: int, group: asyncio.Future[Any]) -> Any:
        return await group

    async def update(self, step: int, shards: Any) -> dict[str, float]:
        await asyncio.sleep(0)
        if self.fails == "update":
            raise LearnerError("no step")
        return {}

    def metrics(self, reports: Any) -> dict[str, float]:
        return {}

    async def log_samples(self, step: int, scored: Any) -> None:
        return None


@pytest.mark.parametrize("fails", ["update", "sync"])
def test_batches_that_are_sampled_ahead_end_with_a_loop_that_fails(fails: str) -> None:
    async def whole() -> None:
        parts = Parts(fails)
        with pytest.raises(LearnerError):
            await asyncio.wait_for(run_loop(SimpleNamespace(num_steps=9, max_lag=2), parts), 10.0)  # type: ignore[arg-type]
        assert [asked.cancelled() for asked in parts.asked] == [False, True, True]

    asyncio.run(whole())
