"""One slot between the coordinator and the learner, and the board on which new weights are announced.

    coordinator                     mailbox                      learner ranks
    deliver(step, shards) ───────▶ [ slot ] ───────▶ take(step, rank)
                     ◀─ metrics ── [ slot ] ◀─ ack(step, metrics, publication) ── rank 0
                                   [ board ] ◀─ register(step, ...) ── rank 0 when it (re)starts
    latest() ◀──────────────────── [ board ] ──▶ settled() ────────▶ rank 0 may save
    keep(name), save() ───────────▶ [ slot ] ──── take(step, rank) ──▶ all ranks write; rank 0 says kept()
    halt() ───────────────────────▶ [ board ] ◀── standing_order() ── supervised learners, after each step

A step's shards stay in the slot until rank 0 acknowledges them. When the learner comes back after a crash, whoever waits
for an answer is told where it stands, with `LearnerRestarted`, and starts from there. A step is saved only after the
coordinator has come back for more, which it does when the step is written down: so a killed run, which goes on from a
checkpoint, has the metrics of every step before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlft_core.errors import RlftError, ServiceError
from services.weights.publication import Publication


class LearnerRestarted(ServiceError):
    """The learner restarted from the checkpoint of `step`; whatever was made for later steps is void."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step

    def __str__(self) -> str:
        return f"the learner restarted at step {self.step}"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a learner stands when it has started: next step, number of ranks, process ids by rank."""

    step: int
    num_ranks: int
    pids: tuple[int, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Keep:
    """Work that is no step: write the model as it is now into the stage's folder, under this name."""

    name: str


@dataclass(frozen=True, slots=True)
class Save:
    """Work that is no step: write a checkpoint of the step where the learner stands."""


Order = Keep | Save

OPEN, HALTING, CLOSED = 0, 1, 2
"""What a supervised learner should do after a step: go on; save and end; end."""


class Mailbox:
    """An async actor; every method may be called at any time."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._standing: Standing | None = None
        self._publication: Publication | None = None
        self._step = -1
        self._shards: Sequence[Any] | None = None
        self._outcome: Mapping[str, float] | RlftError | None = None
        self._order: Order | None = None
        self._restarted = False
        self._restarts = 0
        self._unsettled = False
        self._closed = False
        self._halting = False
        self._halted = False
        self._failure: RlftError | None = None
        self._progress: list[tuple[int, Mapping[str, float]]] = []

    async def register(self, standing: Standing, publication: Publication | None) -> None:
        """Rank 0 says where it starts. A second registration means that the learner was restarted."""
        async with self._changed:
            self._restarts += self._standing is not None
            self._restarted = self._restarted or self._standing is not None
            self._standing, self._publication = standing, publication
            if self._shards is not None:
                self._outcome, self._shards = LearnerRestarted(standing.step), None
                self._restarted = False
            self._changed.notify_all()

    async def standing(self) -> Standing:
        """Waits for the learner's first registration; later ones answer at once."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._standing is not None or self._failure is not None)
            if self._failure is not None:
                raise self._failure
            assert self._standing is not None
            return self._standing

    async def latest(self) -> list[Publication]:
        """The newest weights, in a list: their refs must stay refs. Raises LearnerRestarted."""
        async with self._changed:
            self._settle()
            await self._changed.wait_for(lambda: self._publication is not None or self._failure is not None)
            if self._failure is not None:
                raise self._failure
            self._check_restart()
            assert self._publication is not None
            return [self._publication]

    async def deliver(self, step: int, shards: Sequence[Any]) -> Mapping[str, float]:
        """Hand the learner one list of refs for each rank; returns its metrics. Raises LearnerRestarted."""
        async with self._changed:
            self._check_restart()
            self._step, self._shards, self._outcome = step, shards, None
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._outcome is not None or self._failure is not None)
            return self._answer()

    async def restarts(self, seen: int) -> int:
        """How often the learner was restarted; waits until that is more than `seen`. Nobody counts as told by it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._restarts > seen or self._failure is not None)
            if self._failure is not None:
                raise self._failure
            return self._restarts

    async def check(self) -> None:
        """Raises LearnerRestarted when nobody has been told of the last restart."""
        async with self._changed:
            self._check_restart()

    def _check_restart(self) -> None:
        """Tell of a restart once, to whoever asks first."""
        if self._restarted:
            self._restarted = False
            assert self._standing is not None
            raise LearnerRestarted(self._standing.step)

    def _answer(self) -> Mapping[str, float]:
        outcome = self._failure if self._outcome is None else self._outcome
        self._outcome = None
        if isinstance(outcome, BaseException):
            raise outcome
        assert outcome is not None
        return outcome

    async def keep(self, name: str) -> None:
        """Have the learner write its model under a name; returns when it is written. Raises LearnerRestarted."""
        await self._carry_out(Keep(name))

    async def save(self) -> None:
        """Have the learner write a checkpoint of the steps so far, which are written down. Raises LearnerRestarted."""
        await self._carry_out(Save())

    async def _carry_out(self, order: Order) -> None:
        async with self._changed:
            self._check_restart()
            self._order = order
            self._settle()
            await self._changed.wait_for(
                lambda: self._order is None or self._restarted or self._failure is not None or self._closed
            )
            self._order = None
            if self._failure is not None:
                raise self._failure
            self._check_restart()

    async def kept(self) -> None:
        """Rank 0: what was ordered is written."""
        async with self._changed:
            self._order = None
            self._changed.notify_all()

    async def take(self, step: int, rank: int) -> Sequence[Any] | Order | None:
        """The refs of one rank for a step, or other work; None when there is no more."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: (
                    self._closed
                    or self._failure is not None
                    or self._order is not None
                    or (self._shards is not None and self._step == step)
                )
            )
            if self._failure is not None:
                raise self._failure
            if self._closed:
                return None
            if self._order is not None:
                return self._order
            assert self._shards is not None
            shard: Sequence[Any] = self._shards[rank]
            return shard

    async def ack(self, metrics: Mapping[str, float], publication: Publication) -> None:
        """Rank 0: the step is done and these are the new weights."""
        async with self._changed:
            self._shards, self._outcome, self._publication = None, metrics, publication
            self._unsettled = True
            self._changed.notify_all()

    async def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Rank 0 of a supervised stage: a step is done."""
        async with self._changed:
            self._progress.append((step, metrics))
            self._unsettled = True
            self._changed.notify_all()

    async def settled(self) -> bool:
        """Waits until the coordinator has written down every step that it was told of; False when it will not."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._unsettled or self._closed or self._failure is not None)
            return not self._unsettled

    async def progress(self, seen: int) -> list[tuple[int, Mapping[str, float]]]:
        """Reports after the first `seen`; waits for at least one. Empty when the learner is done."""
        async with self._changed:
            if seen >= len(self._progress):
                self._settle()
            await self._changed.wait_for(
                lambda: len(self._progress) > seen or self._closed or self._failure is not None
            )
            if self._failure is not None:
                raise self._failure
            return self._progress[seen:]

    def _settle(self) -> None:
        self._unsettled = False
        self._changed.notify_all()

    async def halt(self) -> None:
        """Have a supervised learner save after its step, and end."""
        self._halting = True

    async def halting(self) -> None:
        """Rank 0: saved, and ending before the last step."""
        self._halted = True
        await self.close()

    async def halted(self) -> bool:
        """Did the learner end because it should halt?"""
        return self._halted

    async def standing_order(self) -> int:
        """OPEN, HALTING or CLOSED."""
        return CLOSED if self._closed else HALTING if self._halting else OPEN

    async def close(self) -> None:
        """No more work: ranks that ask get None."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    async def fail(self, error: RlftError) -> None:
        """A rank met an error that a restart cannot mend: everybody hears of it."""
        async with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()
