"""Rows from a user's file: `load_rows` finds the file, reads it and checks every row before anything else starts.

It keeps texts exactly as they are in the file: no stripping, no lower-casing, no repair. A row that cannot be used is
an error that names the file and the row, never a row that silently disappears.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from rlft_core.data.readers import READERS, Record, read_hub
from rlft_core.errors import DataError
from rlft_core.types import Row

HUB_PREFIX = "hf:"
_LISTED = 8


def load_rows(
    source: str,
    *,
    input_field: str,
    output_field: str,
    id_field: str | None = None,
    family_field: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    base_dir: Path | None = None,
) -> list[Row]:
    """Read and check the rows of `source`, in the file's order.

    Args:
        source: a .jsonl, .ndjson, .json, .csv, .tsv or .parquet file, relative to `base_dir` (default: the current
            folder); or "hf:org/name" or "hf:org/name:configuration", read with the package `datasets`.
        input_field, output_field: the columns that hold the text going in and the text that should come out.
        id_field: the column whose value identifies a row; without it the id is "<file stem>:<line or row number>".
        family_field: a column that groups near-duplicates, checked here to be filled and used by `split_rows`.
        split: which split of a hub data set (default "train"); not for files.
        limit: read only the first `limit` rows.

    Every column stays available as `Row.fields`.

    Raises:
        DataError: naming the file, the row counted from 1, the field, and what to do.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit = {limit} for {source}: it must be at least 1. Leave it out to read every row.")
    name, stem, records = open_source(source, split=split, base_dir=base_dir)
    rows: list[Row] = []
    first_use: dict[str, str] = {}
    for record in islice(records, limit):
        place = f"{name}, {record.where}"
        if family_field is not None:
            _identifier(record.values, family_field, place, key="family_field")
        row = Row(
            id=f"{stem}:{record.number}"
            if id_field is None
            else _identifier(record.values, id_field, place, key="id_field"),
            input=_text(record.values, input_field, place, key="input_field"),
            output=_text(record.values, output_field, place, key="output_field"),
            fields=record.values,
        )
        if row.id in first_use:
            raise DataError(
                f"{place}: id '{row.id}' was already used at {first_use[row.id]}. Make the values of '{id_field}' "
                "unique, or leave id_field out."
            )
        first_use[row.id] = record.where
        rows.append(row)
    if not rows:
        raise DataError(f"{name} holds no rows. Give a file with at least one row of data.")
    return rows


def open_source(source: str, *, split: str | None, base_dir: Path | None) -> tuple[str, str, Iterator[Record]]:
    """The source's name for messages, the stem of its row ids, and its records."""
    if not source.strip():
        raise DataError("The data source is empty. Give a file such as train.jsonl, or hf:org/name.")
    if source.startswith(HUB_PREFIX):
        hub_name = source.removeprefix(HUB_PREFIX).strip()
        if hub_name.split(":")[0].count("/") > 1 or not hub_name.strip("/:"):
            raise DataError(f"'{source}' is not a data set id. Write hf:org/name or hf:org/name:configuration.")
        chosen = split or "train"
        return f"{source} (split '{chosen}')", f"{hub_name}:{chosen}", read_hub(hub_name, split=chosen)
    if split is not None:
        raise DataError(
            f"split = '{split}' is only for hub data sets (hf:org/name), and {source} is a file. Remove it."
        )
    path = find_file(source, base_dir=base_dir)
    return str(path), path.stem, READERS[path.suffix.lower()](path)


def find_file(source: str, *, base_dir: Path | None = None) -> Path:
    """The data file that `source` names, checked to exist, to be a non-empty file and to have a known format.

    Raises:
        DataError: otherwise, with the nearest names in the folder it looked in.
    """
    path = Path(source).expanduser()
    if not path.is_absolute() and base_dir is not None:
        path = base_dir / path
    formats = ", ".join(READERS)
    if path.is_dir():
        inside = sorted(item.name for item in path.iterdir() if item.suffix.lower() in READERS)
        found = f"It holds {_listed(inside)}." if inside else f"It holds no file that can be read ({formats})."
        raise DataError(f"{path} is a folder, not a file. {found} Give one file.")
    if not path.exists():
        raise DataError(f"{path} does not exist (looked in {path.absolute().parent}). {_near_files(path)}")
    if path.suffix.lower() not in READERS:
        way_out = "Unpack it first." if path.suffix.lower() in (".gz", ".zst", ".zip", ".xz", ".bz2") else "Convert it."
        raise DataError(f"{path}: files ending in '{path.suffix}' cannot be read, only {formats}. {way_out}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes). Give a file with at least one row of data.")
    return path


def _text(values: Mapping[str, object], field: str, place: str, *, key: str) -> str:
    """The text in `field`, which must be there, be text and hold more than white space."""
    value = _value(values, field, place, key=key)
    if not isinstance(value, str):
        raise DataError(f"{place}: field '{field}' ({key}) must be text, found {_described(value)}.")
    if not value.strip():
        raise DataError(f"{place}: field '{field}' ({key}) is blank. Fill it or remove the row.")
    return value


def _identifier(values: Mapping[str, object], field: str, place: str, *, key: str) -> str:
    """Like `_text`, but a whole number will do as well."""
    value = _value(values, field, place, key=key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(values, field, place, key=key)


def _value(values: Mapping[str, object], field: str, place: str, *, key: str) -> object:
    if field not in values:
        raise DataError(
            f"{place}: no field '{field}' ({key}). The row has {_listed(list(values))}."
            f"{_near_spelling(field, values)} Set {key} to one of them."
        )
    return values[field]


def _described(value: object) -> str:
    """What a value is, and what to do about it."""
    if value is None:
        return "null. Fill it or remove the row"
    if isinstance(value, bool | int | float):
        return f'the {"truth value" if isinstance(value, bool) else "number"} {value}. Write it in quotes: "{value}"'
    if isinstance(value, list):
        return "a list. If it is a conversation, write its turns as one text"
    return f"{type(value).__name__}. Write it as one text"


def _near_spelling(field: str, known: Iterable[str]) -> str:
    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(field.lower(), lowered, n=1)
    return f" Did you mean '{lowered[near[0]]}'?" if near else ""


def _near_files(path: Path) -> str:
    if not path.absolute().parent.is_dir():
        return "That folder does not exist either. Correct the path."
    siblings = sorted(item.name for item in path.absolute().parent.iterdir() if item.suffix.lower() in READERS)
    near = difflib.get_close_matches(path.name, siblings, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    return f"That folder has {_listed(siblings)}." if siblings else "That folder has no data files. Correct the path."


def _listed(names: list[str]) -> str:
    if not names:
        return "no fields"
    shown = ", ".join(f"'{name}'" for name in names[:_LISTED])
    return shown + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
