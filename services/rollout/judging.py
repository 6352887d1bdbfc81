"""Judging on engines: what an engine's process does with a group, and the reward that is made of it.

    group ref ─▶ fleet ─▶ engine: [comparisons of a round ─▶ prompts ─▶ p of the labels ─▶ verdicts] ... ─▶ GivenScores ref

A group is judged where an engine is free; one that dies gives the whole group back, so no comparison counts twice.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import ray

from rlft_core.errors import JudgeError
from rlft_core.judging.groups import Judged, Rounds, find_winners, group_of, score_against_output, score_within
from rlft_core.judging.protocol import Comparison, Verdict
from rlft_core.judging.questions import Questioner
from rlft_core.judging.template import JudgeTemplate
from rlft_core.models.loading import load_tokenizer
from rlft_core.rewards.given import GivenScores
from rlft_core.types import RolloutGroup

if TYPE_CHECKING:
    from services.rollout.fleet import Fleet

TOURNAMENT = "tournament"
"""Find the best of a group: it has the score 1, the others 0."""
Ask = Callable[[Sequence[list[int]], tuple[int, int]], Awaitable[np.ndarray]]
"""Prompts and label ids -> [prompts, 2] log-probs of the labels as the next token."""


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

    def questioner(self) -> Questioner:
        """What is asked. Raises ConfigError or JudgeError."""
        tokenizer = load_tokenizer(self.model, trust_remote_code=self.trust_remote_code)
        # One place is the label's.
        return Questioner.of(self.template, tokenizer, principles=self.principles, max_length=self.max_length - 1)

    def rounds_of(self, group: RolloutGroup) -> Rounds[list[Judged]]:
        """The comparisons of one group. Who meets whom depends on its own seed alone."""
        seen = group_of(group)
        if self.against == "reference":
            return score_against_output([seen])
        if self.against == TOURNAMENT:
            return find_winners([seen], seeds=[group.prompt.seed])
        return score_within([seen], seeds=[group.prompt.seed], all_pairs=self.all_pairs, rounds=self.rounds)


async def judged(group: RolloutGroup, judging: Judging, questioner: Questioner, ask: Ask) -> GivenScores:
    """The share of comparisons that each sample won, with what the judge showed in them. Raises JudgeError."""
    started = time.time()
    before = questioner.num_truncated
    rounds = judging.rounds_of(group)
    try:
        asked = next(rounds)
        while True:
            asked = rounds.send(await _verdicts(asked, questioner, ask, group.prompt.row.id))
    except StopIteration as end:
        (found,) = end.value
    truncated = float(questioner.num_truncated > before)
    values = tuple(
        (float(score), {**found.statistics(index), "truncated": truncated}) for index, score in enumerate(found.scores)
    )
    return GivenScores(values, (started, time.time()))


async def _verdicts(asked: Sequence[Comparison], questioner: Questioner, ask: Ask, row_id: str) -> list[Verdict]:
    prompts = questioner.prompts(asked)
    chances = np.exp((await ask(prompts, questioner.labels)).astype(np.float64)) if prompts else np.zeros((0, 2))
    if not np.isfinite(chances).all():
        raise JudgeError(f"row '{row_id}': the judge gave a probability that is no number; its weights are broken")
    return questioner.verdicts(asked, [(float(a), float(b)) for a, b in chances])


class JudgePool:
    """A judge in front of its engines: a reward as the scorers know it. With `shared` engines it neither starts nor ends them."""

    def __init__(self, judging: Judging, fleet: Fleet, *, shared: bool) -> None:
        self.label = judging.label
        self._judging = judging
        self._fleet = fleet
        self._shared = shared

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
