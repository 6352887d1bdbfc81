"""One reader per file format: each yields records with their place in the file, and says what is malformed.

A record is a mapping of column names to values, as the file has them. Which columns are needed and what may stand in
them is the business of `load.py`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlft_core.errors import DataError

_SHOWN_CHARS = 60
_ENCODING_HINT = "Save the file as UTF-8."


@dataclass(frozen=True, slots=True)
class Record:
    """One record: `where` is its place in words ("line 3"), `number` the same as a number counted from 1."""

    where: str
    number: int
    values: dict[str, Any]


def read_jsonl(path: Path) -> Iterator[Record]:
    """One JSON object per line. Blank lines are passed over."""
    with path.open("rb") as handle:
        for number, raw in enumerate(handle, start=1):
            line = _decode(raw, path, first_line=number).strip()
            if not line:
                continue
            where = f"line {number}"
            try:
                value = json.loads(line)
            except ValueError as error:
                hint = "Each line must be one complete JSON object"
                if number == 1 and line.startswith("["):
                    hint += "; a file that is one JSON list must be named .json"
                raise DataError(f"{path}, {where}: broken JSON ({error}): {_shown(line)}. {hint}.") from error
            yield Record(where, number, _require_object(value, path, where))


def read_json(path: Path) -> Iterator[Record]:
    """A file that is one JSON list of objects."""
    text = _decode(path.read_bytes(), path, first_line=1)
    try:
        value = json.loads(text)
    except ValueError as error:
        hint = "If it holds one object per line, name it .jsonl." if text.lstrip().startswith("{") else "Mend it there."
        raise DataError(f"{path}: broken JSON ({error}). {hint}") from error
    if not isinstance(value, list):
        raise DataError(f"{path}: the file must be a JSON list of objects, found {_kind(value)}. Wrap the rows in [ ].")
    for number, item in enumerate(value, start=1):
        where = f"row {number}"
        yield Record(where, number, _require_object(item, path, where))


def read_csv(path: Path) -> Iterator[Record]:
    """Comma-separated values with a header line."""
    return _read_separated(path, delimiter=",")


def read_tsv(path: Path) -> Iterator[Record]:
    """Tab-separated values with a header line; quoting as in CSV."""
    return _read_separated(path, delimiter="\t")


def read_parquet(path: Path) -> Iterator[Record]:
    """An Apache Parquet file."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(f"{path}: reading Parquet needs the package pyarrow. Run: pip install pyarrow") from error
    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield Record(f"row {number}", number, values)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file ({error}). Write it again.") from error


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
}


def read_hub(name: str, *, split: str) -> Iterator[Record]:
    """A data set of a hub: `name` is "org/name" or "org/name:configuration". Needs the package `datasets`."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"hf:{name}: data from a hub needs the package datasets. Run: pip install datasets, or give a local file."
        ) from error
    path, _, configuration = name.partition(":")
    try:
        rows = datasets.load_dataset(path, configuration or None, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"hf:{name} (split '{split}') could not be loaded: {_shown(str(error), limit=300)}. Check the id, the "
            "split and the network; on a machine without a hub, give a local .jsonl, .csv or .parquet file."
        ) from error
    for number, values in enumerate(rows, start=1):
        yield Record(f"row {number}", number, dict(values))


def _read_separated(path: Path, *, delimiter: str) -> Iterator[Record]:
    text = _decode(path.read_bytes(), path, first_line=1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    start = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}, line {start}: cannot be read as separated values ({error}). Look for a quote that is opened "
                "and not closed (a quote inside a quoted value is written twice), or use .jsonl."
            ) from error
        where, start = f"line {start}", reader.line_num + 1
        if not cells:
            continue
        if header is None:
            header = _check_header(cells, path)
            continue
        if len(cells) != len(header):
            raise DataError(
                f"{path}, {where}: {len(cells)} values, but the header has {len(header)} columns "
                f"({', '.join(header)}). Put values that contain {delimiter!r} in double quotes."
            )
        yield Record(where, int(where.removeprefix("line ")), dict(zip(header, cells, strict=True)))


def _check_header(cells: list[str], path: Path) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{path}, line 1: the header names column '{twice[0]}' more than once. Rename one of them.")
    return header


def _decode(raw: bytes, path: Path, *, first_line: int) -> str:
    """Strict UTF-8; a byte order mark at the start of the file is dropped."""
    if first_line == 1 and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is UTF-16, not UTF-8. {_ENCODING_HINT}")
    try:
        return raw.decode("utf-8-sig" if first_line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line = first_line + raw[: error.start].count(b"\n")
        raise DataError(
            f"{path}, line {line}: byte 0x{raw[error.start]:02x} is not valid UTF-8. {_ENCODING_HINT}"
        ) from error


def _require_object(value: object, path: Path, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f'{path}, {where}: a row must be a JSON object such as {{"input": "..."}}, found {_kind(value)}.'
        )
    return value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _shown(text: str, *, limit: int = _SHOWN_CHARS) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[:limit] + "…"
