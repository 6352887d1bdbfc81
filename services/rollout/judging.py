"""Judging on engines: what an engine's process does with a group, and the reward that is made of it.

    group ref ─▶ fleet ─▶ engine: [comparisons of a round ─▶ prompts ─▶ p of the labels ─▶ verdicts] ... ─▶ GivenScores ref
                          or, for a template that grades: [answers ─▶ prompts ─▶ p of the grades ─▶ grades] ─▶

A group is judged where an engine is free; one that dies gives the whole group back, so no comparison counts twice.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from rlft_core.errors import JudgeError
from rlft_core.judging.grading import Grader
from rlft_core.judging.groups import Judged, Rounds, find_winners, group_of, score_against_output, score_within
from rlft_core.judging.protocol import Comparison, Verdict
from rlft_core.judging.questions import Asking, Medium, Questioner, Tokens
from rlft_core.judging.template import JudgeTemplate
from rlft_core.models.loading import load_tokenizer
from rlft_core.rewards.given import GivenScores
from rlft_core.types import RolloutGroup

if TYPE_CHECKING:
    from services.rollout.fleet import Fleet

TOURNAMENT = "tournament"
"""Find the best of a group: it has the score 1, the others 0."""
Ask = Callable[[Sequence[Any], tuple[Any, ...]], Awaitable[np.ndarray]]
"""Prompts and labels -> [prompts, labels] log-probs of the labels as what comes next."""


@dataclass(frozen=True, slots=True)
class Judging:
    """How groups are judged. `model`: the folder with the judge's tokenizer; `plain`: by an engine without its adapter."""

    label: str
    model: str
    template: JudgeTemplate
    principles: tuple[str, ...] | None
    against: str
    all_pairs: int
    rounds: int
    max_length: int
    plain: bool
    trust_remote_code: bool

    def asking(self, medium: Medium | None = None) -> Asking:
        """What is asked, by default of a model with the tokenizer of `model`: a Grader for a template that grades, else a
        Questioner. Raises ConfigError or JudgeError."""
        medium = medium or Tokens(load_tokenizer(self.model, trust_remote_code=self.trust_remote_code))
        kind = Grader if self.template.grades else Questioner
        # One place is the label's.
        return kind.of(self.template, medium, principles=self.principles, max_length=self.max_length - 1)

    def rounds_of(self, group: RolloutGroup) -> Rounds[list[Judged]]:
        """The comparisons of one group. Who meets whom depends on its own seed alone."""
        seen = group_of(group)
        if self.against == "reference":
            return score_against_output([seen])
        if self.against == TOURNAMENT:
            return find_winners([seen], seeds=[group.prompt.seed])
        return score_within([seen], seeds=[group.prompt.seed], all_pairs=self.all_pairs, rounds=self.rounds)


async def judged(group: RolloutGroup, judging: Judging, asking: Asking, ask: Ask) -> GivenScores:
    """What the judge made of each sample, with what it showed of itself. Raises JudgeError."""
    started = time.time()
    asking = replace(asking, num_truncated=0)  # groups are judged at once: each counts its own
    if isinstance(asking, Grader):
        found = await _graded(group, asking, ask)
    else:
        assert isinstance(asking, Questioner)
        found = await _compared(group, judging, asking, ask)
    truncated = {"truncated": float(asking.num_truncated > 0)}
    return GivenScores(
        tuple((score, {**statistics, **truncated}) for score, statistics in found), (started, time.time())
    )


_Found = list[tuple[float, Mapping[str, float]]]
"""A score for each sample, and statistics."""


async def _graded(group: RolloutGroup, grader: Grader, ask: Ask) -> _Found:
    """The expected grade of each sample."""
    row, texts = group.prompt.row, [completion.text for completion in group.completions]
    chances = await _probabilities(grader.prompts(row, texts), grader.labels, ask, row.id)
    return [(grade.value, grade.statistics(len(grader.labels))) for grade in grader.grades(row, chances)]


async def _compared(group: RolloutGroup, judging: Judging, questioner: Questioner, ask: Ask) -> _Found:
    """The share of comparisons that each sample won."""
    rounds = judging.rounds_of(group)
    try:
        asked = next(rounds)
        while True:
            asked = rounds.send(await _verdicts(asked, questioner, ask, group.prompt.row.id))
    except StopIteration as end:
        (found,) = end.value
    return [(float(score), found.statistics(index)) for index, score in enumerate(found.scores)]


async def _verdicts(asked: Sequence[Comparison], questioner: Questioner, ask: Ask, row_id: str) -> list[Verdict]:
    chances = await _probabilities(questioner.prompts(asked), questioner.labels, ask, row_id)
    return questioner.verdicts(asked, chances)


async def _probabilities(prompts: Sequence[Any], labels: tuple[Any, ...], ask: Ask, row_id: str) -> list[list[float]]:
    """[prompts, labels]"""
    if not prompts:
        return []
    found = np.exp((await ask(prompts, labels)).astype(np.float64))
    if not np.isfinite(found).all():
        raise JudgeError(f"row '{row_id}': the judge gave a probability that is no number; its weights are broken")
    chances: list[list[float]] = found.tolist()
    return chances


class JudgePool:
    """A judge in front of its engines: a reward as the scorers know it. With `shared` engines it neither starts nor ends them."""

    role = "judge"

    def __init__(self, judging: Judging, fleet: Fleet, *, shared: bool) -> None:
        self.label = judging.label
        self._judging = judging
        self._fleet = fleet
        self._shared = shared

    @property
    def crew(self) -> Fleet | None:
        """Its own engines; None when they are the policy's."""
        return None if self._shared else self._fleet

    def actors(self) -> list[dict[str, Any]]:
        """Its own engines, as `rlft status` shows them."""
        return [] if self._shared else self._fleet.actors(self.role)

    async def start(self, seconds: float) -> None:
        """Wait until every engine answers, within `rollout.start_deadline_s` of its own. Raises EngineError or DeadlineError."""
        if not self._shared:
            await self._fleet.start()

    async def score(self, group: ray.ObjectRef) -> tuple[ray.ObjectRef, Callable[[], None]]:
        """The ref of a group's GivenScores. Raises JudgeError, EngineError or DeadlineError."""
        scores = await self._fleet.judge(group, self._judging)
        if not self._shared:
            self._fleet.spans.clear()  # the scorer reads the same from the scores; nobody reads these
        return scores, _nothing

    async def stop(self) -> None:
        """End its engines."""
        if not self._shared:
            await self._fleet.stop()


def _nothing() -> None:
    """The fleet has counted for itself."""
