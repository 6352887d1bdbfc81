"""Calls that arrive while a model computes are taken together by its next pass.

call, call, call ─▶ [waiting] ─▶ one pass in a thread ─▶ each caller its own part
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Part(Generic[Value]):
    """One caller's values, in order, and when the pass that made them began and ended, in seconds since the epoch."""

    values: tuple[Value, ...]
    span: tuple[float, float]


class Passes(Generic[Item, Value]):
    """Runs `compute`, items -> as many values, in one thread at a time. Belongs to one event loop.

    A pass is nobody's: a caller that is cancelled leaves the others what they wait for.
    """

    def __init__(self, compute: Callable[[list[Item]], Sequence[Value]]) -> None:
        self._compute = compute
        self._waiting: list[tuple[Sequence[Item], asyncio.Future[Part[Value]]]] = []
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, items: Sequence[Item]) -> Part[Value]:
        """The values of some items. Raises what `compute` raises, to all callers of that pass."""
        mine: asyncio.Future[Part[Value]] = asyncio.get_running_loop().create_future()
        self._waiting.append((items, mine))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await mine

    async def _run(self) -> None:
        try:
            while self._waiting:
                taken = [(items, future) for items, future in self._waiting if not future.done()]
                self._waiting = []
                await self._pass(taken)
        finally:
            self._running = None

    async def _pass(self, taken: list[tuple[Sequence[Item], asyncio.Future[Part[Value]]]]) -> None:
        started = time.time()
        try:
            values = await asyncio.to_thread(self._compute, [item for items, _ in taken for item in items])
        except Exception as error:  # noqa: BLE001 - whatever it was, everybody who waits must hear of it
            for _, future in taken:
                if not future.done():
                    future.set_exception(error)
            return
        first, span = 0, (started, time.time())
        for items, future in taken:
            mine = tuple(values[first : first + len(items)])
            first += len(items)
            if not future.done():  # its caller may have gone
                future.set_result(Part(mine, span))
