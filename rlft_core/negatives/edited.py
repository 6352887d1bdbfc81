"""Contrasts from minimal edits: the edited text is the better one, its row's output; the original is the worse one.

Reads them from files, and turns what a function or an editing model answered into edits. Which share of the tokens an
edit leaves alone is looked at where texts become tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from rlft_core.config.data import DataConfig
from rlft_core.config.edits import CORRECTED, FileEditsConfig, FunctionEditsConfig
from rlft_core.data.load import HUB_PREFIX, load_rows
from rlft_core.errors import DataError, RewardError
from rlft_core.negatives.samples import Samples
from rlft_core.negatives.types import Contrast, Negative
from rlft_core.negatives.units import plain
from rlft_core.rewards.custom import import_function
from rlft_core.types import Row

Side = Literal["train", "validation"]
SIDES: tuple[Side, ...] = get_args(Side)

NOTHING_CHANGED = "nothing to correct, or nothing changed"
NO_EDIT = "the editor gave no minimal edit"
TOO_LONG = "too long for the editor"
_LABEL = re.compile(
    r"^\s*(?:here(?:'s| is)[^\n:]{0,60}:|(?:the )?(?:corrected|edited|revised|fixed)\s*(?:text|version|answer|response)?\s*:)\s*",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "«": "»"}
_FENCE = re.compile(r"^```[^\n]*\n(.*?)\n?```$", re.DOTALL)


def edits_of_file(config: FileEditsConfig, side: Side, data: DataConfig, base_dir: Path, *, key: str) -> list[Contrast]:
    """The edits in a file or split, those of one prompt and one edited text together; none where the recipe gives none.

    Args:
        key: where `config` stands in the recipe, for messages.

    Raises DataError naming the key, the file, the row and the field.
    """
    source = config.train if side == "train" else config.validation
    if source is None:
        return []
    key = f"{key}.{side}"
    split = side if source.startswith(HUB_PREFIX) else None
    try:
        rows = load_rows(
            source, input_field=data.input_field, output_field=config.edited_field, split=split, base_dir=base_dir
        )
    except DataError as error:
        raise DataError(f"{key}: {error}") from error
    return grouped((row, _original(row, config, key, source)) for row in rows)


def edits_of_function(
    config: FunctionEditsConfig, rows: Sequence[Row], originals: Samples, *, key: str, skipped: Counter[str]
) -> list[Contrast]:
    """What the user's function makes of the model's samples. Raises ConfigError, or RewardError naming row and text."""
    function = import_function(
        config.function,
        where=f"{key}: function '{config.function}'",
        arguments=("row", "original"),
        params=config.params,
    )
    return grouped(_edited(rows, originals, lambda row, text: _asked(function, row, text, config, key), skipped))


def edits_of_editor(
    rows: Sequence[Row],
    originals: Samples,
    answers: Mapping[tuple[str, int], Sequence[str]],
    acceptable: Callable[[str, str], bool],
    *,
    skipped: Counter[str],
) -> list[Contrast]:
    """The first answer to each original that is a minimal edit of it.

    Args:
        answers: by row id and number of the original; originals without any were too long to be asked for.
        acceptable: whether (original, edited) is minimal enough.
    """
    found: list[tuple[Row, Negative]] = []
    for row in rows:
        for number, (text, ended) in enumerate(originals.get(row.id, ())):
            if (row.id, number) not in answers:
                skipped[TOO_LONG] += 1
                continue
            given = [cleaned(answer, text) for answer in answers[row.id, number]]
            minimal = [edited for edited in given if edited and acceptable(text, edited)]
            if not minimal:
                skipped[NO_EDIT] += 1
            elif plain(minimal[0]) == plain(text):
                skipped[NOTHING_CHANGED] += 1
            else:
                found.append((replace(row, output=minimal[0]), Negative(CORRECTED, text, ended)))
    return grouped(found)


def editing_row(row: Row, original: str) -> Row:
    """The row as an editor sees it: with the text to edit and the reference as columns of their own."""
    return replace(row, fields={**row.fields, "original": original, "reference": row.output})


def cleaned(answer: str, original: str) -> str:
    """An editor's answer without what models put around a text: a heading, quotes, a fence, explanations below."""
    text = answer.strip()
    text = _LABEL.sub("", text, count=1).strip()
    fenced = _FENCE.match(text)
    text = fenced[1].strip() if fenced else text
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and not original.strip().startswith(text[0]):
        text = text[1:-1].strip()
    return text if "\n" in original.strip() else text.split("\n")[0].strip()


def grouped(edits: Iterable[tuple[Row, Negative]]) -> list[Contrast]:
    """Edits of one prompt with one edited text become one contrast, so that they are computed together."""
    rows: dict[tuple[str, str], Row] = {}
    negatives: dict[tuple[str, str], list[Negative]] = {}
    for row, negative in edits:
        key = row.input, row.output
        rows.setdefault(key, row)
        negatives.setdefault(key, []).append(negative)
    return [Contrast(rows[key], tuple(found)) for key, found in negatives.items()]


def _original(row: Row, config: FileEditsConfig, key: str, source: str) -> Negative:
    text = row.fields.get(config.original_field)
    if not isinstance(text, str) or not text.strip():
        there = ", ".join(sorted(row.fields))
        raise DataError(
            f"{key}: {source}, row {row.id}: field '{config.original_field}' (original_field) must be text that is not blank; "
            f"the row has {there}. Fill it, or set original_field"
        )
    return Negative(CORRECTED, text)


def _edited(
    rows: Sequence[Row], originals: Samples, edit: Callable[[Row, str], str | None], skipped: Counter[str]
) -> Iterator[tuple[Row, Negative]]:
    for row in rows:
        for text, ended in originals.get(row.id, ()):
            edited = edit(row, text)
            if edited is None or not edited.strip() or plain(edited) == plain(text):
                skipped[NOTHING_CHANGED] += 1
            else:
                yield replace(row, output=edited), Negative(CORRECTED, text, ended)


def _asked(function: Callable[..., Any], row: Row, text: str, config: FunctionEditsConfig, key: str) -> str | None:
    try:
        edited = function(row, text, **config.params)
    except Exception as error:  # a user's function may raise anything
        raise RewardError(
            f"{key}: function '{config.function}', row '{row.id}': raised {type(error).__name__}: {error}. "
            f"The text: {text!r:.200}"
        ) from error
    if edited is not None and not isinstance(edited, str):
        raise RewardError(
            f"{key}: function '{config.function}', row '{row.id}': returned {type(edited).__name__}, neither text nor None"
        )
    return edited
