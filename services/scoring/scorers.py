"""Reward actors and the pool in front of them.

An actor builds the recipe's rewards once and scores one group a call; all arithmetic is in `rlft_core.rewards`. Scoring
is a pure function of its group, so a call to an actor that died is simply made again by Ray.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from rlft_core.config.rewards import RewardConfig
from rlft_core.errors import EngineError, RewardError, RlftError
from rlft_core.rewards.build import build_rewards
from rlft_core.rewards.scoring import num_skipped, score_group
from rlft_core.types import RolloutGroup, ScoredGroup
from services.cluster.waiting import within
from services.observe.samples import SampleRecord, sample_records


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """What the coordinator may know of a scored group: numbers, no tokens. `span`: start and end, since the epoch."""

    num_samples: int
    num_skipped: int
    span: tuple[float, float]


class ScoringActor:
    """Scores groups. Placed with `ray.remote` by the pool."""

    def __init__(
        self, rewards: tuple[RewardConfig, ...], *, may_skip: bool, search_path: str, num_threads: int
    ) -> None:
        import sys

        if search_path not in sys.path:
            sys.path.insert(0, search_path)
        torch.set_num_threads(num_threads)
        self._rewards = build_rewards(rewards)
        self._may_skip = may_skip

    def ready(self) -> bool:
        """Answers when the rewards are built."""
        return True

    @ray.method(num_returns=2)
    def score(self, group: RolloutGroup) -> tuple[ScoreSummary, ScoredGroup]:
        """Score every completion. The summary is for the coordinator, the scored group stays in the object store."""
        started = time.time()
        scored = score_group(group, self._rewards, skip_budget=len(group.completions) if self._may_skip else 0)
        return ScoreSummary(len(scored.scores), num_skipped(scored), (started, time.time())), scored

    def records(self, scored: ScoredGroup) -> list[SampleRecord]:
        """A scored group as text, for a person to read."""
        return sample_records(scored)


class ScorerPool:
    """Several reward actors; a group goes to the one with the least to do. Counts what was skipped.

    `spans`: when actors scored; the reader empties it.
    """

    def __init__(
        self, actors: Sequence[ray.actor.ActorHandle], *, max_skipped: int, start_s: float, deadline_s: float
    ) -> None:
        self._actors = list(actors)
        self._load = [0] * len(actors)
        self._max_skipped = max_skipped
        self._start_s = start_s
        self._deadline_s = deadline_s
        self.num_skipped = 0
        self.spans: list[tuple[float, float]] = []

    async def start(self) -> None:
        """Wait until every actor has built its rewards."""
        for index, actor in enumerate(self._actors):
            await self._answer(actor.ready.remote(), f"scorer {index}", "start", self._start_s)

    async def score(self, group: ray.ObjectRef) -> ray.ObjectRef:
        """The ref of the ScoredGroup of a ref of a RolloutGroup. Raises RewardError."""
        index = min(range(len(self._actors)), key=self._load.__getitem__)
        self._load[index] += 1
        try:
            summary, scored = self._actors[index].score.remote(group)
            found: ScoreSummary = await self._answer(summary, f"scorer {index}", "score")
        finally:
            self._load[index] -= 1
        self.num_skipped += found.num_skipped
        self.spans.append(found.span)
        if self.num_skipped > self._max_skipped:
            raise RewardError(
                f"{self.num_skipped} samples were skipped because a reward failed, more than max_skipped_samples "
                f"({self._max_skipped}); mend the reward or raise the number"
            )
        ref: ray.ObjectRef = scored
        return ref

    async def records(self, scored: Sequence[ray.ObjectRef]) -> list[SampleRecord]:
        """Scored groups as text, in order. Groups become text in an actor, so no token comes to the coordinator."""
        calls = [self._actors[k % len(self._actors)].records.remote(ref) for k, ref in enumerate(scored)]
        parts = await asyncio.gather(*(self._answer(call, "scorer", "describe samples") for call in calls))
        return [record for part in parts for record in part]

    async def stop(self) -> None:
        """End all actors."""
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
        await asyncio.sleep(0)

    async def _answer(self, ref: ray.ObjectRef, actor: str, phase: str, seconds: float = 0.0) -> Any:
        try:
            return await within(seconds or self._deadline_s, _wait(ref), actor=actor, phase=phase)
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, RlftError) else error from None
        except RayActorError as error:
            raise EngineError(f"{actor} died in '{phase}' and could not be restarted: {error}") from error


async def _wait(ref: ray.ObjectRef) -> Any:
    return await ref
