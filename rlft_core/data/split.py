"""Train, validation and test from one list of rows, without near-duplicates on both sides.

Rows of one family go to the same side. Which side depends only on the seed and the family's name, not on the order of
the file. Finding near-duplicates by their text is not done here: give each row a family instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlft_core.errors import DataError
from rlft_core.types import Row

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Splits:
    """Rows that are trained on, rows that settings are chosen on, and rows that results are reported on.

    `notes` are what a person should know of them, in sentences.
    """

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def split_rows(
    rows: Sequence[Row], *, validation: float | int, test: float | int, seed: int, family_field: str | None = None
) -> Splits:
    """Split by family. `validation` and `test` are a share of the rows below 1 (a float) or a number of rows (an int).

    The family of a row is its field `family_field`; without one, rows whose inputs are the same but for case and
    white space are a family. Families are taken in the order of SHA-256(seed, family); one that would overfill a side
    is passed on, so a side never has more rows than asked for. The rows of each side keep their order.

    Raises:
        DataError: sizes that are out of range or leave a side empty, or a family field that a row lacks.
    """
    sizes = {"test": _num_rows("test", test, len(rows)), "validation": _num_rows("validation", validation, len(rows))}
    if sum(sizes.values()) >= len(rows):
        raise DataError(
            f"validation = {validation} and test = {test} take {sum(sizes.values())} of {len(rows)} rows and leave "
            "none to train on. Make them smaller."
        )
    families: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        families.setdefault(_family(row, family_field), []).append(index)
    side_of = ["train"] * len(rows)
    free = dict(sizes)
    for family in sorted(families, key=lambda name: hashlib.sha256(f"{seed}\n{name}".encode()).digest()):
        members = families[family]
        side = next((name for name, room in free.items() if len(members) <= room), "train")
        if side != "train":
            free[side] -= len(members)
        for index in members:
            side_of[index] = side
    sides: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for row, side in zip(rows, side_of, strict=True):
        sides[side].append(row)
    splits = Splits(tuple(sides["train"]), tuple(sides["validation"]), tuple(sides["test"]))
    _check_filled(splits, sizes, num_families=len(families))
    return splits


def check_disjoint(splits: Splits, *, family_field: str | None = None) -> None:
    """Make sure that no row is on two sides: neither its input (case and white space aside) nor its family.

    Raises:
        DataError: saying how many are on two sides, with the first of them, and the way out.
    """
    shared = shared_rows(splits, family_field=family_field)
    if shared:
        raise DataError(
            f"{' '.join(shared)} Remove them from one side, let one file be split by family, or go on with "
            "data.on_two_sides: allow."
        )


def shared_rows(splits: Splits, *, family_field: str | None = None) -> list[str]:
    """A sentence for every two sides that share inputs (case and white space aside) or families: how many rows, which.

    Raises:
        DataError: a row lacks its family.
    """
    keys: dict[str, Callable[[Row], str]] = {"input": _same_input}
    if family_field is not None:
        keys["family"] = lambda row: _family(row, family_field)
    pairs = (("train", "test"), ("train", "validation"), ("validation", "test"))
    sides = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    told = []
    for what, key in keys.items():
        for left, right in pairs:
            known = {key(row): row.id for row in reversed(sides[left])}
            both = [(known[key(row)], row.id) for row in sides[right] if key(row) in known]
            if both:
                named = ", ".join(f"{a} = {b}" for a, b in both[:_NAMED])
                told.append(
                    f"{len(both)} of {len(sides[right])} rows of {right} have the same {what} as a row of {left}: {named}"
                    f"{' …' if len(both) > _NAMED else ''}. Results on {right} {_consequence(left)}."
                )
    return told


def _consequence(left: str) -> str:
    return "may be too good" if left == "train" else "are not independent of what was chosen on validation"


def _num_rows(side: str, size: float | int, num_rows: int) -> int:
    """How many rows a share or a number of rows means."""
    if isinstance(size, int) and size >= 0:
        return size
    if isinstance(size, float) and 0 <= size < 1:
        return round(size * num_rows)
    raise DataError(f"{side} = {size}: give a share from 0 up to 1 (such as 0.1), or a whole number of rows.")


def _family(row: Row, family_field: str | None) -> str:
    if family_field is None:
        return _same_input(row)
    if row.fields.get(family_field) is None:
        known = ", ".join(f"'{name}'" for name in row.fields)
        raise DataError(f"Row {row.id} has no '{family_field}' (family_field); it has {known}. Fill it in every row.")
    return str(row.fields[family_field])


def _same_input(row: Row) -> str:
    return " ".join(row.input.lower().split())


def _check_filled(splits: Splits, sizes: dict[str, int], *, num_families: int) -> None:
    found = {"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)}
    for side, count in found.items():
        if count == 0 and sizes.get(side, 1) > 0:
            raise DataError(
                f"Splitting left no row for {side}: {num_families} families do not fit the sizes asked for "
                f"(validation {sizes['validation']}, test {sizes['test']} rows). Give other sizes, a file for each "
                "side, or smaller families."
            )
