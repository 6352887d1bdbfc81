"""Reward actors and the pool in front of them.

An actor builds the recipe's rewards once and scores one group a call; all arithmetic is in `rlft_core.rewards`. Scoring
is a pure function of its group, so a call to an actor that died is simply made again by Ray.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import ray
import torch

from rlft_core.config.rewards import RewardConfig, RewardModelConfig, ServedConfig
from rlft_core.errors import RewardError, SamplesLost
from rlft_core.evaluation.text import text_metrics
from rlft_core.models.default_model import DEFAULT_MODEL
from rlft_core.models.loading import load_tokenizer
from rlft_core.rewards.build import build_rewards, is_span_reward
from rlft_core.rewards.embedding import shared_embedder
from rlft_core.rewards.given import GivenReward, GivenScores
from rlft_core.rewards.protocol import WeightedReward, sample_of
from rlft_core.rewards.scoring import num_skipped, score_group
from rlft_core.types import RolloutGroup, ScoredGroup
from services.cluster.waiting import answer, patiently
from services.observe.samples import SampleRecord, sample_records
from services.scoring.crew import Crew, Resizable


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
    """A reward that other actors compute: reward models, judges. `role`: "reward" or "judge"."""

    label: str
    role: str

    @property
    def crew(self) -> Resizable | None:
        """Its actors, if their number can be changed."""
        ...

    def actors(self) -> list[dict[str, Any]]:
        """Its actors with their states, as `rlft status` shows them."""
        ...

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
        crew: Crew,
        served: Sequence[Served] = (),
        *,
        max_skipped: int,
        start_s: float,
        deadline_s: float,
    ) -> None:
        self._crew = crew
        self._served = list(served)
        self._max_skipped = max_skipped
        self._start_s = start_s
        self._deadline_s = deadline_s
        self.num_skipped = 0
        self.spans: list[tuple[float, float]] = []

    async def start(self) -> None:
        """Wait until every actor has built its rewards."""
        await self._crew.start(self._start_s)
        for served in self._served:
            await served.start(self._start_s)

    async def score(self, group: ray.ObjectRef) -> ray.ObjectRef:
        """The ref of the ScoredGroup of a ref of a RolloutGroup. Raises RewardError, or SamplesLost with what it was to score."""
        found, scored = await patiently(lambda: self._scored(group), self._deadline_s)
        self.num_skipped += found.num_skipped
        self.spans += found.spans
        if self.num_skipped > self._max_skipped:
            raise RewardError(
                f"{self.num_skipped} samples were skipped because a reward failed, more than max_skipped_samples "
                f"({self._max_skipped}); mend the reward or raise the number"
            )
        return scored

    async def _scored(self, group: ray.ObjectRef) -> tuple[ScoreSummary, ray.ObjectRef]:
        asked: list[tuple[ray.ObjectRef, Callable[[], None]]] = []
        try:
            for served in self._served:
                asked.append(await served.score(group))
            with self._crew.least() as hand:
                # Ray hands their values on as soon as they are there; they never come here.
                summary, scored = hand.actor.score.remote(group, *(ref for ref, _ in asked))
                found: ScoreSummary = await self._answer(summary, hand.name, "score")
        except SamplesLost:
            # Or nothing is lost, and whoever was to give its values is dead for good: that one is named.
            for served, (ref, _) in zip(self._served, asked, strict=True):
                await self._answer(ref, served.label, "score")
            raise
        finally:
            for _, done in asked:
                done()
        return found, scored

    async def records(self, scored: Sequence[ray.ObjectRef]) -> list[SampleRecord]:
        """Scored groups as text, in order. Groups become text in an actor, so no token comes to the coordinator."""
        calls = [patiently(partial(self._described, ref), self._deadline_s) for ref in scored]
        parts = await asyncio.gather(*calls)
        return [record for part in parts for record in part]

    async def _described(self, scored: ray.ObjectRef) -> list[SampleRecord]:
        with self._crew.least() as hand:
            found: list[SampleRecord] = await self._answer(
                hand.actor.records.remote(scored), hand.name, "describe samples"
            )
        return found

    async def measure(self, scored: Sequence[ray.ObjectRef]) -> tuple[list[float], dict[str, list[float]]]:
        """Rewards and unrewarded metrics of the first completion of each scored group, in order."""
        return await patiently(lambda: self._measured(scored), self._deadline_s)

    async def _measured(self, scored: Sequence[ray.ObjectRef]) -> tuple[list[float], dict[str, list[float]]]:
        with self._crew.least() as hand:
            found: tuple[list[float], dict[str, list[float]]] = await self._answer(
                hand.actor.measure.remote(list(scored)), hand.name, "measure"
            )
        return found

    def resizable(self) -> dict[str, Resizable]:
        """Whose number can be changed: "scorers"; rewards and judges by label, the only one of its role by its role too."""
        crews = [(served, served.crew) for served in self._served]
        found: dict[str, Resizable] = {"scorers": self._crew}
        for served, crew in crews:
            if crew is not None:
                found[served.label] = crew
                if sum(other.role == served.role for other, _ in crews) == 1:
                    found[served.role] = crew
        return found

    def actors(self) -> list[dict[str, Any]]:
        """All actors with their states, as `rlft status` shows them."""
        return [*self._crew.actors("scorer"), *(actor for served in self._served for actor in served.actors())]

    async def stop(self) -> None:
        """End all actors."""
        self._crew.stop()
        for served in self._served:
            await served.stop()

    async def _answer(self, ref: ray.ObjectRef, actor: str, phase: str, seconds: float = 0.0) -> Any:
        return await answer(ref, actor, phase, seconds or self._deadline_s)
