"""A judge on whole groups of answers: a score for each answer, or the best one. A round over all groups is one batch.

groups ─▶ schedules or brackets ─▶ [all pairs of a round] ─▶ judge.compare ─▶ told ─▶ next round ... ─▶ scores, winners
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rlft_core.judging.bracket import Bracket
from rlft_core.judging.protocol import Answer, Comparison, Judge, Verdict
from rlft_core.judging.ranking import Schedule
from rlft_core.types import RolloutGroup, Row


@dataclass(frozen=True, slots=True)
class Group:
    """The answers to one row's task."""

    row: Row
    answers: tuple[Answer, ...]


class _Rounds(Protocol):
    def pairs(self) -> list[tuple[int, int]]: ...
    def tell(self, outcomes: Sequence[float]) -> None: ...


def group_of(group: RolloutGroup) -> Group:
    """What a judge sees of sampled completions."""
    answers = tuple(Answer(c.text, c.finish_reason == "stop") for c in group.completions)
    return Group(group.prompt.row, answers)


def scores_within(
    groups: Sequence[Group], judge: Judge, *, seeds: Sequence[int], all_pairs: int = 4, rounds: int = 3
) -> tuple[list[np.ndarray], list[Verdict]]:
    """[N] scores in [0, 1] of each group's answers, and all verdicts, for their statistics.

    As `Schedule`: how often an answer wins against the others of its group. A contradiction between the two orders is a tie,
    and so are equal answers. A group of one has the score .5.
    """
    schedules = [
        Schedule(len(group.answers), seed=seed, all_pairs=all_pairs, rounds=rounds) if len(group.answers) > 1 else None
        for group, seed in zip(groups, seeds, strict=True)
    ]
    verdicts = _played(groups, schedules, judge)
    return [np.full(1, 0.5) if schedule is None else schedule.scores() for schedule in schedules], verdicts


def winners(groups: Sequence[Group], judge: Judge, *, seeds: Sequence[int]) -> tuple[list[int], list[Verdict]]:
    """The index of each group's best answer by a single-elimination tournament, and all verdicts."""
    brackets = [Bracket(len(group.answers), seed=seed) for group, seed in zip(groups, seeds, strict=True)]
    verdicts = _played(groups, brackets, judge)
    found = [bracket.winner for bracket in brackets]
    return [winner for winner in found if winner is not None], verdicts


def _played(groups: Sequence[Group], plans: Sequence[_Rounds | None], judge: Judge) -> list[Verdict]:
    """Play all rounds of all groups; returns every verdict."""
    every: list[Verdict] = []
    while True:
        asked = [(index, pair) for index, plan in enumerate(plans) if plan is not None for pair in plan.pairs()]
        if not asked:
            return every
        comparisons = [
            Comparison(groups[index].row, groups[index].answers[a], groups[index].answers[b]) for index, (a, b) in asked
        ]
        verdicts = judge.compare(comparisons)
        outcomes: dict[int, list[float]] = {}
        for (index, _), verdict in zip(asked, verdicts, strict=True):
            outcomes.setdefault(index, []).append(verdict.outcome)
        for index, found in outcomes.items():
            plan = plans[index]
            assert plan is not None
            plan.tell(found)
        every += verdicts
