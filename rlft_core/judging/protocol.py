"""What a judge is asked and what it says. A verdict that cannot be had is an error, never a tie or a 0."""

from __future__ import annotations

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
    """How likely the judge finds `a` better: `a_first` when it was shown first, `b_first` when it was shown second.

    Equal answers are a tie without a call; a judge that knows no order gives the same number twice.
    """

    a_first: float
    b_first: float

    @property
    def outcome(self) -> float:
        """1: `a` is better in both orders, 0: `b` is; .5: a tie, or the orders contradict each other."""
        votes = [1.0 if p > 0.5 else 0.0 if p < 0.5 else 0.5 for p in (self.a_first, self.b_first)]
        return votes[0] if votes[0] == votes[1] else 0.5

    @property
    def agrees(self) -> bool:
        """Whether both orders say the same."""
        return (self.a_first - 0.5) * (self.b_first - 0.5) > 0 or self.a_first == self.b_first


TIE = Verdict(0.5, 0.5)


class Judge(Protocol):
    """Compares answers, both orders always. A pure function of each comparison."""

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        """One verdict for each comparison, in order. Raises JudgeError when there is none."""
