"""From a recipe's `data` section to the rows of each side: the one place that says what `data.validation: 100` means.

Reads rows and splits them. It encodes nothing and knows of no model. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path

from rlft_core.config.data import DataConfig
from rlft_core.data.load import HUB_PREFIX, load_rows
from rlft_core.data.split import Splits, check_disjoint, shared_rows, split_rows
from rlft_core.errors import DataError
from rlft_core.types import Row


def rows_of(data: DataConfig, base_dir: Path, seed: int) -> Splits:
    """The rows to train on, to validate on and to test on; a side that the recipe does not name is empty.

    A side given as a file (or hub data set) is read from there. A side given as a number or a share is set aside from
    the training rows by family, as `seed` decides. `data.limit` cuts the training rows last of all, so it never
    changes which rows are held out. Ids are unique over all sides: where a file uses one that another side has, all its ids get
    its side's name put before them. With `data.on_two_sides: allow`, rows on two sides become notes of the result.

    Raises:
        DataError: a file or row that cannot be used, sizes that cannot be met, or a row on two sides that is not allowed.
    """
    sizes = {"validation": data.validation, "test": data.test}
    set_aside = {side: size for side, size in sizes.items() if isinstance(size, int | float)}
    rows = _load(data, data.train, base_dir, side="train", limit=0 if set_aside else data.limit)
    train: tuple[Row, ...] = tuple(rows)
    held_out: dict[str, tuple[Row, ...]] = {"validation": (), "test": ()}
    if set_aside:
        _check_sizes(set_aside)
        splits = split_rows(
            rows,
            validation=set_aside.get("validation", 0),
            test=set_aside.get("test", 0),
            seed=seed,
            family_field=data.family_field,
        )
        train = splits.train
        held_out = {"validation": splits.validation, "test": splits.test}
    for side, source in sizes.items():
        if isinstance(source, str):
            found = _load(data, source, base_dir, side=side, limit=0)
            held_out[side] = _apart(found, side, {row.id for other in (train, *held_out.values()) for row in other})
    whole = Splits(train=train, validation=held_out["validation"], test=held_out["test"])
    used = replace(whole, train=train[: data.limit] if data.limit else train)
    if data.on_two_sides == "allow":
        return replace(used, notes=tuple(shared_rows(used, family_field=data.family_field)))
    check_disjoint(whole, family_field=data.family_field)
    return used


def _load(data: DataConfig, source: str, base_dir: Path, *, side: str, limit: int) -> list[Row]:
    try:
        return load_rows(
            source,
            input_field=data.input_field,
            output_field=data.output_field,
            id_field=data.id_field,
            family_field=data.family_field,
            split=side if source.strip().startswith(HUB_PREFIX) else None,
            limit=limit or None,
            base_dir=base_dir,
        )
    except DataError as error:
        raise DataError(f"data.{side}: {error}") from error


def _apart(rows: Sequence[Row], side: str, taken: Container[str]) -> tuple[Row, ...]:
    """The rows, under ids that no other side has: samples and results are looked up by them. Files numbered from 1 are common."""
    while any(row.id in taken for row in rows):
        rows = [replace(row, id=f"{side}:{row.id}") for row in rows]
    return tuple(rows)


def _check_sizes(sizes: dict[str, int | float]) -> None:
    for side, size in sizes.items():
        if isinstance(size, float) and not 0 < size < 1:
            raise DataError(f"data.{side}: {size} is no share of the rows; give one between 0 and 1, or a whole number")
        if size <= 0:
            raise DataError(f"data.{side}: {size} sets no row aside; give at least 1, or leave data.{side} out")
