"""What a judge is asked and what it says. A verdict that cannot be had is an error, never a tie or a 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rlft_core.types import Row


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's text; `ended`: by EOS, not cut off at a limit."""

    text: str
    ended: bool = True


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers to the task of one row."""

    row: Row
    a: Answer
    b: Answer


@dataclass(frozen=True, slots=True)
class Verdict:
    """The probabilities that the judge gives to (a, b): `a_first` when `a` was shown first, `b_first` when `b` was.

    They need not sum to 1: a language model may have wanted to say something else. Equal answers are a tie without a
    call; a judge that knows no order gives the same pair twice. `principles`: the verdicts that this one sums up.
    """

    a_first: tuple[float, float]
    b_first: tuple[float, float]
    principles: tuple[Verdict, ...] = ()

    @property
    def scores(self) -> tuple[float, float]:
        """(s_a, s_b): means over both orders (Lee et al. 2024, arXiv 2402.11253)."""
        return (self.a_first[0] + self.b_first[0]) / 2.0, (self.a_first[1] + self.b_first[1]) / 2.0

    @property
    def preferred(self) -> float:
        """1: `a` has the higher score, or wins by more principles; 0: `b`; .5: both the same."""
        if self.principles:
            return over_principles(self.principles)
        s_a, s_b = self.scores
        return _vote(s_a - s_b)

    @property
    def outcome(self) -> float:
        """1: `a` is better in both orders, 0: `b` is; .5: a tie, or the orders contradict each other."""
        votes = self._votes()
        return votes[0] if votes[0] == votes[1] else 0.5

    @property
    def agrees(self) -> bool:
        """Whether both orders say the same."""
        votes = self._votes()
        return votes[0] == votes[1]

    @property
    def first(self) -> float:
        """The share of the probability, mean over both orders, that whatever stood first was given: .5 without a bias."""
        shares = (_share(*self.a_first), _share(self.b_first[1], self.b_first[0]))
        return sum(shares) / 2.0

    @property
    def entropy(self) -> float:
        """Of the decision between both scores, in nats: ln 2 = .69 is a coin, 0 is sure."""
        share = _share(*self.scores)
        return -sum(p * math.log(p) for p in (share, 1.0 - share) if p > 0.0)

    def _votes(self) -> tuple[float, float]:
        """What each order says; of several principles, what most of them say."""
        parts = self.principles or (self,)
        a_first = sum(_vote(part.a_first[0] - part.a_first[1]) - 0.5 for part in parts)
        b_first = sum(_vote(part.b_first[0] - part.b_first[1]) - 0.5 for part in parts)
        return _vote(a_first), _vote(b_first)


TIE = Verdict((0.5, 0.5), (0.5, 0.5))


def combined(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict over several principles: mean probabilities, and what each of them said. ValueError without any."""
    if len(verdicts) == 1:
        return verdicts[0]
    if not verdicts:
        raise ValueError("there is no verdict to combine")
    means = [
        tuple(sum(pair[side] for pair in pairs) / len(verdicts) for side in (0, 1))
        for pairs in ([verdict.a_first for verdict in verdicts], [verdict.b_first for verdict in verdicts])
    ]
    return Verdict((means[0][0], means[0][1]), (means[1][0], means[1][1]), tuple(verdicts))


def over_principles(verdicts: Sequence[Verdict]) -> float:
    """1 where `a` wins by more principles than `b`, 0 where `b` does; at a tie the higher mean score decides, and .5 is
    left for those that are equal there too (Lee et al. 2024). Raises ValueError without a verdict."""
    if not verdicts:
        raise ValueError("there is no verdict to combine")
    wins = sum(verdict.preferred - 0.5 for verdict in verdicts)
    if wins:
        return _vote(wins)
    sums = [sum(verdict.scores[side] for verdict in verdicts) for side in (0, 1)]
    return _vote(sums[0] - sums[1])


class Judge(Protocol):
    """Compares answers, both orders always. A pure function of each comparison.

    `num_truncated`: how many comparisons so far were too long for it and were cut.
    """

    @property
    def num_truncated(self) -> int: ...

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict for each comparison, in order. Raises JudgeError when there is none."""


def _vote(gap: float) -> float:
    return 1.0 if gap > 0 else 0.0 if gap < 0 else 0.5


def _share(of: float, other: float) -> float:
    return of / (of + other) if of + other > 0 else 0.5
