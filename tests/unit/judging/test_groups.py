"""A judge on groups: scores and winners, one batch a round, the same whatever groups come together."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rlft_core.judging.groups import Group, scores_within, winners
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


def test_small_groups_take_one_batch_in_all() -> None:
    judge = Numbers()
    found, verdicts = scores_within([group(3, 1, 2), group(5), group(7, 7)], judge, seeds=[0, 1, 2])
    assert [scores.tolist() for scores in found] == [[1.0, 0.0, 0.5], [0.5], [0.5, 0.5]]
    assert judge.batches == [4]
    assert len(verdicts) == 4


def test_large_groups_take_a_batch_a_round() -> None:
    judge = Numbers()
    groups = [group(*range(16)), group(*range(8)), group(2, 1)]
    found, verdicts = scores_within(groups, judge, seeds=[0, 1, 2], rounds=4)
    assert judge.batches == [8 + 4 + 1, 8 + 4, 8 + 4, 8 + 4]
    assert len(verdicts) == sum(judge.batches)
    for scores in found[:2]:
        assert int(scores.argmax()) == len(scores) - 1
        assert scores[0] < 0.2


def test_a_groups_scores_do_not_depend_on_the_others() -> None:
    groups, seeds = [group(*range(9)), group(4, 2, 9), group(*range(6, 0, -1))], [5, 6, 7]
    together, _ = scores_within(groups, Numbers(), seeds=seeds)
    for one, seed, expected in zip(groups, seeds, together, strict=True):
        (alone,), _ = scores_within([one], Numbers(), seeds=[seed])
        assert alone.tolist() == expected.tolist()


def test_a_judge_that_contradicts_itself_gives_ties() -> None:
    (scores,), _ = scores_within([group(3, 1, 2)], First(), seeds=[0])
    assert scores.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16])
def test_tournaments_find_the_best(size: int) -> None:
    judge = Numbers()
    groups = [group(*range(size)), group(*range(10, 10 + size)[::-1])]
    found, verdicts = winners(groups, judge, seeds=[1, 2])
    assert found == [size - 1, 0]
    assert len(verdicts) == 2 * (size - 1)
    assert len(judge.batches) == (size - 1).bit_length()
