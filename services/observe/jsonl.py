"""Files of one JSON object per line that survive a killed process and a rewound stage. Knows nothing of metrics.

Two things happen to such a file in a run's life. The process dies in the middle of a line: the torn line is ignored by
readers and cut off before the next one is appended. A stage goes back to its checkpoint: the lines it wrote since then
are dropped, so that a step never stands in the file twice.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rlft_core.errors import DataError


def append_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Append each row as a line, in one write. Numbers that are not finite become null, so the file stays JSON."""
    text = "".join(json.dumps(finite(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def read_rows(path: Path) -> Iterator[dict[str, object]]:
    """The rows in order. An unreadable last line without its newline is a torn one and is left out.

    Raises DataError, with the line's number, for any other line that is not a JSON object.
    """
    for _, row in _lines(path):
        if row is not None:
            yield row


def rewind(path: Path, *, stage: str, step: int) -> int:
    """Drop the lines of `stage` with step >= `step`, and a torn last line. Returns the number of rows dropped.

    The file is written aside and renamed: a crash leaves either the old file or the new one.
    """
    if not path.exists():
        return 0
    kept: list[bytes] = []
    dropped, torn = 0, False
    for line, row in _lines(path):
        torn = torn or not line.endswith(b"\n")
        if row is None:
            continue
        if row.get("stage") == stage and _step_of(row) >= step:
            dropped += 1
        else:
            kept.append(line.rstrip(b"\n") + b"\n")
    if dropped or torn:
        aside = path.with_name(path.name + ".aside")
        with aside.open("wb") as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    return dropped


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, object] | None]]:
    """Each raw line with its object, None for a torn last line. Bytes, because a tear can split a character."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            row = _parse(line)
            if row is None and line.endswith(b"\n"):
                raise DataError(f"{path}, line {number}: not a JSON object: {line[:60]!r}. Mend or delete the line.")
            yield line, row


def _parse(line: bytes) -> dict[str, object] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _step_of(row: Mapping[str, object]) -> int:
    step = row.get("step")
    return step if isinstance(step, int) else -1


def finite(value: object) -> object:
    """The value with null for numbers that JSON does not have, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
