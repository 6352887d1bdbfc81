"""A judge on groups: scores and winners, one batch a round, the same whatever groups come together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from rlft_core.judging.groups import Group, Judged, find_winners, play, score_against_output, score_within
from rlft_core.judging.protocol import TIE, Answer, Comparison, Verdict
from rlft_core.types import Row


class Numbers:
    """Prefers the larger number, both orders alike; counts its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        self.batches.append(len(comparisons))
        return [self._verdict(int(pair.a.text), int(pair.b.text)) for pair in comparisons]

    def _verdict(self, a: int, b: int) -> Verdict:
        if a == b:
            return TIE
        return Verdict((0.9, 0.1), (0.9, 0.1)) if a > b else Verdict((0.1, 0.9), (0.1, 0.9))


class First(Numbers):
    """Prefers whatever stands first."""

    def _verdict(self, a: int, b: int) -> Verdict:
        return Verdict((0.9, 0.1), (0.1, 0.9))


def group(*numbers: int) -> Group:
    return Group(Row(f"row-{numbers}", "in", "out"), tuple(Answer(str(number)) for number in numbers))


def within(groups: list[Group], judge: Numbers, **keys: Any) -> list[Judged]:
    return play(score_within(groups, **keys), judge)


def test_small_groups_take_one_batch_in_all() -> None:
    judge = Numbers()
    found = within([group(3, 1, 2), group(5), group(7, 7)], judge, seeds=[0, 1, 2])
    assert [judged.scores.tolist() for judged in found] == [[1.0, 0.0, 0.5], [0.5], [0.5, 0.5]]
    assert judge.batches == [4]
    assert [len(judged.verdicts) for judged in found] == [3, 0, 1]


def test_large_groups_take_a_batch_a_round() -> None:
    judge = Numbers()
    groups = [group(*range(16)), group(*range(8)), group(2, 1)]
    found = within(groups, judge, seeds=[0, 1, 2], rounds=4)
    assert judge.batches == [8 + 4 + 1, 8 + 4, 8 + 4, 8 + 4]
    assert sum(len(judged.verdicts) for judged in found) == sum(judge.batches)
    for judged in found[:2]:
        assert int(judged.scores.argmax()) == len(judged.scores) - 1
        assert judged.scores[0] < 0.2


def test_a_groups_scores_do_not_depend_on_the_others() -> None:
    groups, seeds = [group(*range(9)), group(4, 2, 9), group(*range(6, 0, -1))], [5, 6, 7]
    together = within(groups, Numbers(), seeds=seeds)
    for one, seed, expected in zip(groups, seeds, together, strict=True):
        (alone,) = within([one], Numbers(), seeds=[seed])
        assert alone.scores.tolist() == expected.scores.tolist()
        assert alone.pairs == expected.pairs


def test_a_judge_that_contradicts_itself_gives_ties_and_shows_it() -> None:
    (judged,) = within([group(3, 1, 2)], First(), seeds=[0])
    assert judged.scores.tolist() == [0.5, 0.5, 0.5]
    assert judged.statistics(1) == {
        "agreement": 0.0,
        "first": pytest.approx(0.9),
        "entropy": pytest.approx(math.log(2)),
        "ties": 1.0,
    }


def test_statistics_are_those_of_an_answers_own_comparisons() -> None:
    (judged,) = within([group(3, 1, 3)], Numbers(), seeds=[0])
    sure = 0.3250830  # -.9 ln .9 - .1 ln .1
    expected = {"agreement": 1.0, "first": pytest.approx(0.5), "entropy": pytest.approx(sure, abs=1e-6), "ties": 0.0}
    assert [judged.statistics(index) for index in range(3)] == [expected] * 3  # equal answers were not asked
    (nothing,) = within([group(7, 7)], Numbers(), seeds=[0])
    assert nothing.statistics(0) == {}


def test_answers_against_the_rows_own_output() -> None:
    groups = [Group(Row("r", "in", "5", {}), tuple(Answer(text) for text in ("7", "5", "2"))), group()]
    judge = Numbers()
    first, empty = play(score_against_output(groups), judge)
    assert first.scores.tolist() == [1.0, 0.5, 0.0]
    assert empty.scores.tolist() == []
    assert judge.batches == [3]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16])
def test_tournaments_find_the_best(size: int) -> None:
    judge = Numbers()
    groups = [group(*range(size)), group(*range(10, 10 + size)[::-1])]
    found = play(find_winners(groups, seeds=[1, 2]), judge)
    assert [int(judged.scores.argmax()) for judged in found] == [size - 1, 0]
    assert [judged.scores.sum() for judged in found] == [1.0, 1.0]
    assert sum(len(judged.verdicts) for judged in found) == 2 * (size - 1)
    assert len(judge.batches) == (size - 1).bit_length()
