"""Which rows a step uses, and how steps and ranks share things."""

from __future__ import annotations

import pytest

from rlft_core.batching.schedule import rows_of_step, sampling_seed
from rlft_core.batching.sharding import split_evenly


@pytest.mark.parametrize("num_rows, per_step", [(12, 3), (7, 3), (5, 8), (1, 2)])
def test_every_epoch_is_a_permutation(num_rows: int, per_step: int) -> None:
    drawn = [
        row for step in range(3 * num_rows) for row in rows_of_step(step, num_rows=num_rows, per_step=per_step, seed=3)
    ]
    epochs = [drawn[start : start + num_rows] for start in range(0, len(drawn), num_rows)]
    assert len(epochs) == 3 * per_step
    assert all(sorted(epoch) == list(range(num_rows)) for epoch in epochs)
    if num_rows > 6:  # enough for two epochs not to agree by chance
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)  # fresh ones


def test_a_step_does_not_depend_on_the_steps_before_it() -> None:
    forward = [rows_of_step(step, num_rows=10, per_step=4, seed=5) for step in range(9)]
    backward = [rows_of_step(step, num_rows=10, per_step=4, seed=5) for step in reversed(range(9))]
    assert forward == backward[::-1]
    assert forward != [rows_of_step(step, num_rows=10, per_step=4, seed=6) for step in range(9)]


def test_the_order_of_rows_is_the_same_on_every_machine() -> None:
    assert rows_of_step(0, num_rows=6, per_step=4, seed=0) == [3, 2, 5, 4]
    assert rows_of_step(1, num_rows=6, per_step=4, seed=0)[:2] == [0, 1]


def test_families_stay_neighbours_in_their_order() -> None:
    sizes = (1, 3, 2, 1, 4)
    members = [list(range(sum(sizes[:k]), sum(sizes[: k + 1]))) for k in range(len(sizes))]
    seen = set()
    for epoch in range(6):
        drawn = rows_of_step(epoch, num_rows=11, per_step=11, seed=1, families=sizes)
        order = [
            next(k for k, rows in enumerate(members) if rows[0] == row)
            for row in drawn
            if [row] in [m[:1] for m in members]
        ]
        assert drawn == [row for family in order for row in members[family]]
        assert sorted(order) == list(range(5))
        seen.add(tuple(order))
    assert len(seen) > 1
    steps = [row for step in range(11) for row in rows_of_step(step, num_rows=11, per_step=3, seed=1, families=sizes)]
    whole = [row for epoch in range(3) for row in rows_of_step(epoch, num_rows=11, per_step=11, seed=1, families=sizes)]
    assert steps == whole


def test_families_of_one_are_drawn_as_rows_are() -> None:
    for step in range(5):
        plain = rows_of_step(step, num_rows=10, per_step=4, seed=5)
        assert rows_of_step(step, num_rows=10, per_step=4, seed=5, families=(1,) * 10) == plain


def test_families_that_are_not_all_rows() -> None:
    with pytest.raises(ValueError, match="families of 3 rows for 4 rows"):
        rows_of_step(0, num_rows=4, per_step=1, seed=0, families=(1, 2))


def test_no_rows() -> None:
    with pytest.raises(ValueError, match="no rows"):
        rows_of_step(0, num_rows=0, per_step=1, seed=0)


def test_sampling_seed_is_the_same_on_every_machine() -> None:
    assert sampling_seed("run", 3, "row-17") == 0x1D86A069 >> 1  # the first four bytes of sha256("run/3/row-17")
    assert sampling_seed("run", 3, "row-18") != sampling_seed("run", 3, "row-17")
    assert all(0 <= sampling_seed("run", step, "row") < 2**31 for step in range(200))


def test_split_evenly() -> None:
    assert split_evenly([1, 2, 3, 4, 5, 6], 3) == [[1, 2], [3, 4], [5, 6]]
    assert split_evenly([1, 2], 1) == [[1, 2]]
    with pytest.raises(ValueError, match="5 items do not divide into 2"):
        split_evenly([1, 2, 3, 4, 5], 2)
    with pytest.raises(ValueError, match="0 equal parts"):
        split_evenly([1], 0)
