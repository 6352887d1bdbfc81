"""A judge on whole groups of answers: a score for each answer, or the best one. A round over all groups is one batch.

groups ─▶ schedules or brackets ─▶ [all pairs of a round] ─▶ judge ─▶ told ─▶ next round ... ─▶ scores, winners

The rounds are generators that yield comparisons and are sent verdicts, so that a judge may be a call, or an engine that is
awaited: `play` drives one with a `Judge`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from rlft_core.judging.bracket import Bracket
from rlft_core.judging.protocol import TIE, Answer, Comparison, Judge, Verdict
from rlft_core.judging.ranking import Schedule, win_shares
from rlft_core.types import RolloutGroup, Row

T = TypeVar("T")
Rounds = Generator[list[Comparison], Sequence[Verdict], T]
"""Yields the comparisons of a round, is sent one verdict for each, and returns what they came to."""


@dataclass(frozen=True, slots=True)
class Group:
    """The answers to one row's task."""

    row: Row
    answers: tuple[Answer, ...]


@dataclass(slots=True)
class Judged:
    """What was said of one group: `verdicts` of `pairs` (a, b) of its answers, and [N] `scores` in [0, 1]."""

    scores: np.ndarray
    pairs: list[tuple[int, int]] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)

    def statistics(self, answer: int) -> Mapping[str, float]:
        """Of the comparisons of one answer that were asked: `agreement` of both orders, `first`: the share of the
        probability that whatever stood first was given, `entropy` in nats, and `ties`; empty when there were none."""
        mine = [v for pair, v in zip(self.pairs, self.verdicts, strict=True) if answer in pair and v != TIE]
        if not mine:
            return {}
        return {
            "agreement": float(np.mean([verdict.agrees for verdict in mine])),
            "first": float(np.mean([verdict.first for verdict in mine])),
            "entropy": float(np.mean([verdict.entropy for verdict in mine])),
            "ties": float(np.mean([verdict.preferred == 0.5 for verdict in mine])),
        }


class _Plan(Protocol):
    def pairs(self) -> list[tuple[int, int]]: ...
    def tell(self, outcomes: Sequence[float]) -> None: ...


def group_of(group: RolloutGroup) -> Group:
    """What a judge sees of sampled completions."""
    answers = tuple(Answer(c.text, c.finish_reason == "stop") for c in group.completions)
    return Group(group.prompt.row, answers)


def play(rounds: Rounds[T], judge: Judge) -> T:
    """Let a judge say what is asked, to the end. Raises JudgeError."""
    try:
        asked = next(rounds)
        while True:
            asked = rounds.send(judge.compare(asked))
    except StopIteration as end:
        result: T = end.value
        return result


def score_within(
    groups: Sequence[Group], *, seeds: Sequence[int], all_pairs: int = 4, rounds: int = 3
) -> Rounds[list[Judged]]:
    """How often each answer wins against the others of its group, as `Schedule`. A group of one has the score .5.

    An answer wins when its score over both orders is the higher one, as in Lee et al. 2024; equal answers are a tie.
    """
    schedules = [
        Schedule(len(group.answers), seed=seed, all_pairs=all_pairs, rounds=rounds) if len(group.answers) > 1 else None
        for group, seed in zip(groups, seeds, strict=True)
    ]
    found = [Judged(np.full(len(group.answers), 0.5)) for group in groups]
    yield from _played(groups, schedules, found)
    for judged, schedule in zip(found, schedules, strict=True):
        if schedule is not None:
            judged.scores = schedule.scores()
    return found


def score_against_output(groups: Sequence[Group]) -> Rounds[list[Judged]]:
    """Whether each answer wins against its row's own output: 1, 0, or .5 for a tie. One round."""
    found = [Judged(np.full(len(group.answers), 0.5)) for group in groups]
    asked = [Comparison(group.row, answer, Answer(group.row.output)) for group in groups for answer in group.answers]
    verdicts = iter((yield asked))
    for group, judged in zip(groups, found, strict=True):
        size = len(group.answers)
        judged.pairs = [(index, size) for index in range(size)]
        judged.verdicts = [next(verdicts) for _ in range(size)]
        judged.scores = win_shares(size + 1, judged.pairs, [v.preferred for v in judged.verdicts])[:size]
    return found


def find_winners(groups: Sequence[Group], *, seeds: Sequence[int]) -> Rounds[list[Judged]]:
    """Each group's best answer by a single-elimination tournament: its score is 1, those of the others 0."""
    brackets = [Bracket(len(group.answers), seed=seed) for group, seed in zip(groups, seeds, strict=True)]
    found = [Judged(np.zeros(len(group.answers))) for group in groups]
    yield from _played(groups, brackets, found)
    for judged, bracket in zip(found, brackets, strict=True):
        judged.scores[bracket.winner] = 1.0
    return found


def _played(groups: Sequence[Group], plans: Sequence[_Plan | None], found: Sequence[Judged]) -> Rounds[None]:
    """Play all rounds of all groups, and write down what was said."""
    while True:
        asked = [(index, pair) for index, plan in enumerate(plans) if plan is not None for pair in plan.pairs()]
        if not asked:
            return
        verdicts = yield [
            Comparison(groups[index].row, groups[index].answers[a], groups[index].answers[b]) for index, (a, b) in asked
        ]
        outcomes: dict[int, list[float]] = {}
        for (index, pair), verdict in zip(asked, verdicts, strict=True):
            outcomes.setdefault(index, []).append(verdict.preferred)
            found[index].pairs.append(pair)
            found[index].verdicts.append(verdict)
        for index, told in outcomes.items():
            plan = plans[index]
            assert plan is not None
            plan.tell(told)
