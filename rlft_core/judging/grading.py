"""Pointwise judging: a language model grades one answer, and its grade is the mean over the probabilities of all grades.

    answer ─▶ prompts, one a principle ─▶ [a model: p of every grade] ─▶ expected grade in [0, 1]

The expectation tells apart what the likeliest grade does not (Liu et al. 2023, G-Eval, arXiv 2303.16634, section 2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from rlft_core.errors import JudgeError
from rlft_core.judging.questions import Asking
from rlft_core.judging.template import JudgeTemplate
from rlft_core.types import Row


@dataclass(frozen=True, slots=True)
class Grade:
    """`value` in [0, 1]: 0 is the lowest grade, 1 the highest. `entropy` of the grades in nats; `sure`: the probability that
    any grade had, the rest is what the model wanted to say instead."""

    value: float
    entropy: float
    sure: float

    def statistics(self, num_grades: int) -> Mapping[str, float]:
        """For metrics; `grade` counts from 1."""
        return {"grade": 1.0 + self.value * (num_grades - 1), "entropy": self.entropy, "sure": self.sure}


class Grader(Asking):
    """How good one answer is, by every principle."""

    def prompts(self, row: Row, answers: Sequence[str]) -> list[Any]:
        """What a grade continues, of each answer in order. Raises JudgeError when not even cut answers fit."""
        return [prompt for text in answers for prompt in self._fitting(row, (text,))]

    def grades(self, row: Row, probabilities: Sequence[Sequence[float]]) -> list[Grade]:
        """One for each answer, the mean over principles, from the probabilities of all grades after each of its `prompts`.

        Raises JudgeError when no grade has any probability.
        """
        size = len(self.principles)
        found = [_grade(row, chances) for chances in probabilities]
        return [_mean(found[first : first + size]) for first in range(0, len(found), size)]

    @classmethod
    def of(cls, template: JudgeTemplate, *args: Any, **keys: Any) -> Self:
        """As `Asking.of`, for a template that grades."""
        return super().of(template.grading(), *args, **keys)

    def _prompts(self, context: str, responses: Sequence[str]) -> list[Any]:
        (text,) = responses
        return [self.medium.prompt(self.template, context, text, principle=principle) for principle in self.principles]


def _grade(row: Row, chances: Sequence[float]) -> Grade:
    sure = float(sum(chances))
    if sure <= 0.0:
        raise JudgeError(f"row '{row.id}': no grade has any probability, so there is no grade; use another template")
    shares = [chance / sure for chance in chances]
    value = sum(step * share for step, share in enumerate(shares)) / (len(shares) - 1)
    return Grade(value, -sum(share * math.log(share) for share in shares if share > 0.0), sure)


def _mean(parts: Sequence[Grade]) -> Grade:
    return Grade(
        *(sum(values) / len(parts) for values in zip(*((g.value, g.entropy, g.sure) for g in parts), strict=True))
    )
