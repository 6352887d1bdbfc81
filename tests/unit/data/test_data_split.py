"""Splitting by family: nothing lost, nothing on two sides, the same whatever the order of the file."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlft_core.data import Splits, check_disjoint, split_rows
from rlft_core.errors import DataError
from rlft_core.types import Row


def rows_of(families: list[int]) -> list[Row]:
    return [Row(f"t:{i}", f"text {i}", "o", {"family": f"f{family}"}) for i, family in enumerate(families)]


@given(
    families=st.lists(st.integers(0, 60), min_size=40, max_size=80),
    validation=st.integers(1, 12) | st.floats(0.1, 0.3),
    test=st.integers(1, 12) | st.floats(0.1, 0.3),
    seed=st.integers(0, 5),
)
def test_properties(families: list[int], validation: float | int, test: float | int, seed: int) -> None:
    rows = rows_of(families)
    try:
        splits = split_rows(rows, validation=validation, test=test, seed=seed, family_field="family")
    except DataError as error:
        assert "families do not fit" in str(error)  # noqa: PT017 - a possible outcome for a few large families
        return
    sides = [splits.train, splits.validation, splits.test]
    assert sorted(row.id for side in sides for row in side) == sorted(row.id for row in rows)
    names = [{row.fields["family"] for row in side} for side in sides]
    assert not names[0] & names[1]
    assert not names[0] & names[2]
    assert not names[1] & names[2]
    for side, size in ((splits.validation, validation), (splits.test, test)):
        assert 0 < len(side) <= (size if isinstance(size, int) else round(size * len(rows)))
    for side in sides:
        positions = [int(row.id.removeprefix("t:")) for row in side]
        assert positions == sorted(positions)
    check_disjoint(splits, family_field="family")
    shuffled = random.Random(seed).sample(rows, len(rows))
    again = split_rows(shuffled, validation=validation, test=test, seed=seed, family_field="family")
    assert {row.id for row in again.test} == {row.id for row in splits.test}
    assert {row.id for row in again.train} == {row.id for row in splits.train}


def test_sizes_are_met_exactly_when_families_are_single_rows() -> None:
    rows = rows_of(list(range(50)))
    splits = split_rows(rows, validation=7, test=0.2, seed=0, family_field="family")
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (33, 7, 10)


def test_seed_changes_the_split() -> None:
    rows = rows_of(list(range(50)))
    tests = {tuple(row.id for row in split_rows(rows, validation=5, test=10, seed=seed).test) for seed in range(5)}
    assert len(tests) == 5


def test_without_a_family_equal_inputs_stay_together() -> None:
    rows = [Row(f"t:{i}", f"Text  {i // 2}" if i % 2 else f"text {i // 2}", "o") for i in range(40)]
    splits = split_rows(rows, validation=8, test=8, seed=3)
    check_disjoint(splits)
    assert len(splits.test) == 8


@pytest.mark.parametrize(
    "sizes, part",
    [
        ({"validation": 0.5, "test": 0.5}, "leave none to train on"),
        ({"validation": 5, "test": 5}, "take 10 of 10 rows"),
        ({"validation": 1.5, "test": 0}, "validation = 1.5"),
        ({"validation": 0, "test": -1}, "test = -1"),
        ({"validation": 0, "test": float("nan")}, "test = nan"),
    ],
)
def test_sizes_that_cannot_be(sizes: dict[str, float | int], part: str) -> None:
    with pytest.raises(DataError) as caught:
        split_rows(rows_of(list(range(10))), **sizes, seed=0)
    assert part in str(caught.value)


def test_one_large_family_cannot_be_split() -> None:
    with pytest.raises(DataError, match=r"no row for validation: 1 families.*smaller families"):
        split_rows(rows_of([1] * 10), validation=2, test=2, seed=0, family_field="family")


def test_missing_family_names_the_row() -> None:
    rows = [*rows_of([1, 2]), Row("t:9", "x", "o", {"famly": "a"})]
    with pytest.raises(DataError, match=r"Row t:9 has no 'family' \(family_field\); it has 'famly'"):
        split_rows(rows, validation=1, test=1, seed=0, family_field="family")


def test_nothing_held_out_is_allowed_when_asked_for() -> None:
    splits = split_rows(rows_of([1, 2, 3]), validation=0, test=0, seed=0)
    assert len(splits.train) == 3


def test_check_disjoint_reports_count_and_first_names() -> None:
    train = tuple(Row(f"train:{i}", f"Same {i}", "o") for i in range(6))
    test = tuple(Row(f"test:{i}", f"same   {i}", "p") for i in range(1, 6))
    with pytest.raises(DataError) as caught:
        check_disjoint(Splits(train, (), test))
    message = str(caught.value)
    assert "5 of 5 rows of test have the same input as a row of train" in message
    assert "train:1 = test:1, train:2 = test:2, train:3 = test:3 …" in message
    assert "Remove them" in message
    with pytest.raises(DataError, match="1 of 1 rows of validation have the same family as a row of train: t:0 = v:0"):
        check_disjoint(
            Splits(tuple(rows_of([4])), (Row("v:0", "y", "o", {"family": "f4"}),), ()), family_field="family"
        )
    with pytest.raises(DataError, match="rows of test have the same input as a row of validation"):
        check_disjoint(Splits((), train, test))
