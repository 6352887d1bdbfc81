"""Which rows are set aside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlft_core.data.prepare import rows_of
from rlft_core.errors import DataError
from tests.unit.plan.parts import recipe_in, write_rows


def test_rows_set_aside_by_number_share_and_file(base: Path) -> None:
    both = rows_of(recipe_in(base, "data.validation=10", "data.test=0.1").data, base, 0)
    assert [len(side) for side in (both.train, both.validation, both.test)] == [44, 10, 6]
    mixed = rows_of(recipe_in(base, "data.validation=10").data, base, 0)
    assert [len(side) for side in (mixed.train, mixed.validation, mixed.test)] == [50, 10, 40]
    none = rows_of(recipe_in(base).data, base, 0)
    assert [len(side) for side in (none.train, none.validation, none.test)] == [60, 0, 40]


@pytest.mark.parametrize("id_field", [None, "id"])
def test_ids_are_unique_over_all_sides(base: Path, id_field: str | None) -> None:
    """Files of one name, or numbered from 1 each: samples are looked up by id, and would be another row's."""
    for side, first in (("train", 0), ("held", 100), ("tests", 200)):
        (base / side).mkdir()
        rows = [{"id": k, "input": f"text {first + k}", "output": "s"} for k in range(3)]
        (base / side / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = [
        f"data.{key}={side}/rows.jsonl" for key, side in (("train", "train"), ("validation", "held"), ("test", "tests"))
    ]
    data = recipe_in(base, *names, *([f"data.id_field={id_field}"] if id_field else [])).data
    found = rows_of(data, base, 0)
    first = "0" if id_field else "rows:1"
    sides = (found.train, found.validation, found.test)
    assert [side[0].id for side in sides] == [first, f"validation:{first}", f"test:{first}"]
    assert len({row.id for side in sides for row in side}) == 9
    assert found == rows_of(data, base, 0)


def test_the_limit_does_not_change_what_is_held_out(base: Path) -> None:
    whole = rows_of(recipe_in(base, "data.test=10").data, base, 0)
    limited = rows_of(recipe_in(base, "data.test=10", "data.limit=7").data, base, 0)
    assert limited.test == whole.test
    assert limited.train == whole.train[:7]
    assert [row.input for row in rows_of(recipe_in(base, "data.limit=2").data, base, 0).train] == ["text 0", "text 1"]


def test_the_seed_decides_what_is_set_aside(base: Path) -> None:
    data = recipe_in(base, "data.test=10").data
    assert rows_of(data, base, 0).test == rows_of(data, base, 0).test
    assert rows_of(data, base, 0).test != rows_of(data, base, 1).test


def test_a_family_is_never_split(base: Path) -> None:
    write_rows(base / "train.jsonl", 30, family="same")
    with pytest.raises(DataError, match="no row for test"):
        rows_of(recipe_in(base, "data.test=10", "data.family_field=family").data, base, 0)


def test_rows_on_two_sides_are_counted_among_the_rows_in_use(base: Path) -> None:
    write_rows(base / "test.jsonl", 4, first=58)
    write_rows(base / "held.jsonl", 3, first=60)
    allowed = ("data.on_two_sides=allow", "data.validation=held.jsonl")
    found = rows_of(recipe_in(base, *allowed).data, base, 0)
    assert [len(side) for side in (found.train, found.validation, found.test)] == [60, 3, 4]
    assert found.notes == (
        "2 of 4 rows of test have the same input as a row of train: train:59 = test:1, train:60 = test:2. "
        "Results on test may be too good.",
        "2 of 4 rows of test have the same input as a row of validation: held:1 = test:3, held:2 = test:4. "
        "Results on test are not independent of what was chosen on validation.",
    )
    assert len(rows_of(recipe_in(base, *allowed, "data.limit=58").data, base, 0).notes) == 1
    with pytest.raises(DataError, match=r"2 of 4 rows of test .* train:60 = test:2\. .* 2 of 4 rows of test .* held:1"):
        rows_of(recipe_in(base, "data.validation=held.jsonl").data, base, 0)
