"""The model's own samples as a file: one line for each, `{"id": row, "text": ..., "ended": true}`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlft_core.errors import DataError

Samples = Mapping[str, Sequence[tuple[str, bool]]]
"""By row id: the texts, and whether each ended by EOS."""


def write_samples(path: Path, samples: Samples) -> None:
    """Write the samples. Written aside and renamed: a crash leaves the old file or none."""
    aside = path.with_name(path.name + ".aside")
    with aside.open("w", encoding="utf-8") as file:
        for row_id, drawn in samples.items():
            for text, ended in drawn:
                file.write(json.dumps({"id": row_id, "text": text, "ended": ended}, ensure_ascii=False) + "\n")
    aside.replace(path)


def read_samples(path: Path) -> dict[str, list[tuple[str, bool]]]:
    """The samples by row id, in the file's order. DataError naming the file, and the line that is none."""
    try:
        # Not splitlines(): a sample may hold other characters that end a line.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"samples {path} cannot be read: {error}. Delete it: the stage makes it again.") from error
    found: dict[str, list[tuple[str, bool]]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            sample = json.loads(line)
            row_id, text, ended = sample["id"], sample["text"], sample["ended"]
        except (ValueError, KeyError, TypeError) as error:
            raise _bad_line(path, number) from error
        if not (isinstance(row_id, str) and isinstance(text, str) and isinstance(ended, bool)):
            raise _bad_line(path, number)
        found.setdefault(row_id, []).append((text, ended))
    return found


def _bad_line(path: Path, number: int) -> DataError:
    return DataError(
        f"{path}, line {number}: not a sample, which has an id, a text and `ended`. Delete the file: the stage makes it again."
    )
