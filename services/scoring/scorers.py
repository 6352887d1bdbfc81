"""Reward actors and the pool in front of them.

An actor builds the recipe's rewards once and scores one group a call; all arithmetic is in `rlft_core.rewards`. Scoring
is a pure function of its group, so a call to an actor that died is simply made again by Ray.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray
import torch

from rlft_core.config.rewards import RewardConfig, RewardModelConfig, ServedConfig
from rlft_core.errors import RewardError
from rlft_core.evaluation.text import text_metrics
from rlft_core.models.default_model import DEFAULT_MODEL
from rlft_core.models.loading import load_tokenizer
from rlft_core.rewards.build import build_rewards, is_span_reward
from rlft_core.rewards.embedding import shared_embedder
from rlft_core.rewards.given import GivenReward, GivenScores
from rlft_core.rewards.protocol import WeightedReward, sample_of
from rlft_core.rewards.scoring import num_skipped, score_group
from rlft_core.types import RolloutGroup, ScoredGroup
from services.cluster.waiting import answer
from services.observe.samples import SampleRecord, sample_records


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """What the coordinator may know of a scored group: numbers, no tokens. `spans`: when somebody scored, since the epoch."""

    num_samples: int
    num_skipped: int
    spans: tuple[tuple[float, float], ...]


class ScoringActor:
    """Scores groups. Placed with `ray.remote` by the pool."""

    def __init__(
        self,
        rewards: tuple[RewardConfig, ...],
        *,
        may_skip: bool,
        search_path: str,
        num_threads: int,
        policy: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        import sys

        if search_path not in sys.path:
            sys.path.insert(0, search_path)
        torch.set_num_threads(num_threads)
        self._configs = rewards
        # Only who looks at single tokens needs to know what they say.
        wanted = any(isinstance(config, RewardModelConfig) or is_span_reward(config) for config in rewards)
        self._tokenizer = load_tokenizer(policy, trust_remote_code=trust_remote_code) if policy and wanted else None
        here = [config for config in rewards if not isinstance(config, ServedConfig)]
        self._built = {built.reward.name: built for built in build_rewards(here, tokenizer=self._tokenizer)}
        self._may_skip = may_skip

    def ready(self) -> bool:
        """Answers when the rewards are built."""
        return True

    @ray.method(num_returns=2)
    def score(self, group: RolloutGroup, *given: GivenScores) -> tuple[ScoreSummary, ScoredGroup]:
        """Score every completion; `given` are the values of reward models and judges, in the recipe's order.

        The summary is for the coordinator, the scored group stays in the object store.
        """
        started = time.time()
        served = iter(given)
        rewards = [
            WeightedReward(GivenReward(config.label, next(served).values), config.weight)
            if isinstance(config, ServedConfig)
            else self._built[config.label]
            for config in self._configs
        ]
        scored = score_group(group, rewards, skip_budget=len(group.completions) if self._may_skip else 0)
        spans = (*(scores.span for scores in given), (started, time.time()))
        return ScoreSummary(len(scored.scores), num_skipped(scored), spans), scored

    def measure(self, scored: list[ray.ObjectRef]) -> tuple[list[float], dict[str, list[float]]]:
        """Rewards, and metrics that nobody rewards, of the first completion of each group."""
        groups: list[ScoredGroup] = ray.get(scored)
        samples = [sample_of(found.group.prompt.row, found.group.completions[0]) for found in groups]
        metrics = text_metrics(samples, embedder=shared_embedder(DEFAULT_MODEL))
        return [found.scores[0].total for found in groups], metrics

    def records(self, scored: ScoredGroup) -> list[SampleRecord]:
        """A scored group as text, for a person to read."""
        return sample_records(scored, tokenizer=self._tokenizer)


class Served(Protocol):
    """A reward that other actors compute: reward models, judges."""

    label: str

    async def start(self, seconds: float) -> None:
        """Wait until it answers. Raises EngineError or DeadlineError."""
        ...

    async def score(self, group: ray.ObjectRef) -> tuple[ray.ObjectRef, Callable[[], None]]:
        """The ref of a group's GivenScores, and what to call when they have been read."""
        ...

    async def stop(self) -> None:
        """End its actors."""
        ...


class ScorerPool:
    """Several reward actors; a group goes to the one with the least to do. Counts what was skipped.

    `spans`: when actors scored; the reader empties it.
    """

    def __init__(
        self,
        actors: Sequence[ray.actor.ActorHandle],
        served: Sequence[Served] = (),
        *,
        max_skipped: int,
        start_s: float,
        deadline_s: float,
    ) -> None:
        self._actors = list(actors)
        self._served = list(served)
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
        for served in self._served:
            await served.start(self._start_s)

    async def score(self, group: ray.ObjectRef) -> ray.ObjectRef:
        """The ref of the ScoredGroup of a ref of a RolloutGroup. Raises RewardError."""
        index = min(range(len(self._actors)), key=self._load.__getitem__)
        self._load[index] += 1
        asked: list[tuple[ray.ObjectRef, Callable[[], None]]] = []
        try:
            for served in self._served:
                asked.append(await served.score(group))
            # Ray hands their values on as soon as they are there; they never come here.
            summary, scored = self._actors[index].score.remote(group, *(ref for ref, _ in asked))
            found: ScoreSummary = await self._answer(summary, f"scorer {index}", "score")
        finally:
            self._load[index] -= 1
            for _, done in asked:
                done()
        self.num_skipped += found.num_skipped
        self.spans += found.spans
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

    async def measure(self, scored: Sequence[ray.ObjectRef]) -> tuple[list[float], dict[str, list[float]]]:
        """Rewards and unrewarded metrics of the first completion of each scored group, in order."""
        found: tuple[list[float], dict[str, list[float]]] = await self._answer(
            self._actors[0].measure.remote(list(scored)), "scorer 0", "measure"
        )
        return found

    async def stop(self) -> None:
        """End all actors."""
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
        for served in self._served:
            await served.stop()

    async def _answer(self, ref: ray.ObjectRef, actor: str, phase: str, seconds: float = 0.0) -> Any:
        return await answer(ref, actor, phase, seconds or self._deadline_s)
