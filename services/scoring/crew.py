"""Actors that all do the same: a call goes to the one with the least to do; some may join and others leave meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import ray

from rlft_core.errors import ServiceError
from services.cluster.waiting import answer

_LOOK_EVERY_S = 0.05


class Resizable(Protocol):
    """Actors whose number may be changed while they work."""

    @property
    def size(self) -> int:
        """Actors that are wanted."""
        ...

    def resize(self, size: int) -> None:
        """Have so many. Returns at once."""
        ...


@dataclass(slots=True)
class Hand:
    """One actor. It is called when it is `ready`, and no more when it is `leaving`."""

    name: str
    actor: ray.actor.ActorHandle
    load: int = 0
    ready: bool = False
    leaving: bool = False

    @property
    def state(self) -> str:
        """As `rlft status` shows it."""
        return "leaving" if self.leaving else "healthy" if self.ready else "starting"


class Crew:
    """`create` starts actor number n, which has a method `ready`. `kind` names them in messages."""

    def __init__(
        self, kind: str, size: int, create: Callable[[int], ray.actor.ActorHandle], *, notice: Callable[[str], None]
    ) -> None:
        self._kind = kind
        self._create = create
        self._notice = notice
        self._next = 0
        self._start_s = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self.hands = [self._hired() for _ in range(size)]

    async def start(self, seconds: float) -> None:
        """Wait until all answer. Raises EngineError or DeadlineError."""
        self._start_s = seconds
        for hand in list(self.hands):
            await self._begun(hand)

    @property
    def size(self) -> int:
        """Actors that are wanted."""
        return sum(not hand.leaving for hand in self.hands)

    def resize(self, size: int) -> None:
        """Have `size` actors. Returns at once: newcomers are called when they answer, leavers finish what they have."""
        staying = [hand for hand in self.hands if not hand.leaving]
        for _ in range(len(staying), size):
            hand = self._hired()
            self.hands.append(hand)
            self._spawn(self._join(hand))
        leavers = sorted(enumerate(staying), key=lambda pair: (pair[1].ready, -pair[0]))
        for _, hand in leavers[: max(0, len(staying) - max(size, 1))]:
            hand.leaving = True
            self._spawn(self._leave(hand))

    @contextmanager
    def least(self) -> Iterator[Hand]:
        """The actor with the least to do, for the time of one call."""
        hand = self.take()
        try:
            yield hand
        finally:
            hand.load -= 1

    def take(self) -> Hand:
        """The actor with the least to do; whoever takes it lowers its `load` in the end."""
        usable = [hand for hand in self.hands if hand.ready and not hand.leaving] or self.hands
        hand = min(usable, key=lambda other: other.load)
        hand.load += 1
        return hand

    def actors(self, kind: str) -> list[dict[str, Any]]:
        """Each with its state, as `rlft status` shows it."""
        return [{"name": h.name, "kind": kind, "state": h.state, "node": "", "pid": 0} for h in self.hands]

    def stop(self) -> None:
        """End all actors."""
        for task in self._tasks:
            task.cancel()
        for hand in self.hands:
            ray.kill(hand.actor, no_restart=True)

    def _hired(self) -> Hand:
        number, self._next = self._next, self._next + 1
        return Hand(f"{self._kind} {number}", self._create(number))

    async def _begun(self, hand: Hand) -> None:
        await answer(hand.actor.ready.remote(), hand.name, "start", self._start_s)
        hand.ready = True

    async def _join(self, hand: Hand) -> None:
        try:
            await self._begun(hand)
        except ServiceError as error:
            if hand in self.hands and not hand.leaving:
                self._notice(f"{hand.name} was asked for and is given up: {error}")
                self._dismiss(hand)
            return
        self._notice(f"{hand.name} joined")

    async def _leave(self, hand: Hand) -> None:
        await asyncio.sleep(_LOOK_EVERY_S)
        while hand.load:  # each call has a deadline of its own
            await asyncio.sleep(_LOOK_EVERY_S)
        self._dismiss(hand)
        self._notice(f"{hand.name} left")

    def _dismiss(self, hand: Hand) -> None:
        self.hands.remove(hand)
        ray.kill(hand.actor, no_restart=True)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
