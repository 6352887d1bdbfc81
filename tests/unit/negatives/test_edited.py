"""Minimal edits from files, functions and editing models: what is taken, what is left out and counted, what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlft_core.config.data import DataConfig
from rlft_core.config.edits import FileEditsConfig, FunctionEditsConfig
from rlft_core.errors import ConfigError, DataError, RewardError
from rlft_core.negatives.edited import (
    NO_EDIT,
    NOTHING_CHANGED,
    TOO_LONG,
    cleaned,
    editing_row,
    edits_of_editor,
    edits_of_file,
    edits_of_function,
)
from rlft_core.types import Row

ROWS = [Row("1", "reads files", "a file tool", {"input": "reads files"}), Row("2", "plays games", "a game", {})]
ORIGINALS = {"1": [("a fil tool", True), ("a file tool", True)], "2": [("a game game", False)]}


def write(folder: Path, *rows: dict[str, Any]) -> str:
    (folder / "edits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "edits.jsonl"


def read(folder: Path, *rows: dict[str, Any], **keys: Any) -> Any:
    name = write(folder, *rows)
    config = FileEditsConfig(train=name, **keys)
    return edits_of_file(config, "train", DataConfig(train="rows.jsonl"), folder, key="stages.rm.edits")


def test_edits_of_one_prompt_and_one_edited_text_come_together(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {"input": "x", "original": "a toool", "edited": "a tool"},
        {"input": "x", "original": "tool", "edited": "a tool"},
        {"input": "y", "original": "b", "edited": "a tool", "who": "me"},
    )
    assert [(c.row.input, c.row.output, [n.text for n in c.negatives]) for c in found] == [
        ("x", "a tool", ["a toool", "tool"]),
        ("y", "a tool", ["b"]),
    ]
    assert found[1].row.fields["who"] == "me"


def test_a_row_without_an_original_names_file_row_and_field(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"stages\.rm\.edits\.train: edits\.jsonl, row edits:2: field 'original'.*edited, inp"
    ):
        read(tmp_path, {"input": "x", "original": "b", "edited": "a"}, {"input": "x", "edited": "a"})
    with pytest.raises(DataError, match=r"stages\.rm\.edits\.train: .*no field 'after'"):
        read(tmp_path, {"input": "x", "original": "b", "edited": "a"}, edited_field="after")


def mend(row: Row, original: str, *, word: str = "tool") -> str | None:
    """Says nothing of games, and mends files."""
    return original.replace("fil ", "file ") if word in original else None


def by_function(name: str = "mend", **params: Any) -> tuple[Any, Counter[str]]:
    skipped: Counter[str] = Counter()
    config = FunctionEditsConfig(function=f"{__name__}:{name}", params=params)
    return edits_of_function(config, ROWS, ORIGINALS, key="stages.rm.edits", skipped=skipped), skipped


def test_a_function_edits_what_the_model_wrote() -> None:
    found, skipped = by_function()
    assert [(c.row.id, c.row.output, c.negatives[0].text, c.negatives[0].ended) for c in found] == [
        ("1", "a file tool", "a fil tool", True)
    ]
    assert skipped == {NOTHING_CHANGED: 2}


def explode(row: Row, original: str) -> str:
    raise KeyError("no such unit")


def number(row: Row, original: str) -> Any:
    return 3


def test_a_function_that_fails_names_the_row() -> None:
    with pytest.raises(RewardError, match=r"stages\.rm\.edits: function '.*:explode', row '1': raised KeyError"):
        by_function("explode")
    with pytest.raises(RewardError, match="row '1': returned int, neither text nor None"):
        by_function("number")
    with pytest.raises(ConfigError, match=r"stages\.rm\.edits: function '.*' cannot be called as"):
        by_function("mend", other=1)


@pytest.mark.parametrize(
    "answer, text",
    [
        ("a file tool", "a file tool"),
        ("  a file tool\n", "a file tool"),
        ('"a file tool"', "a file tool"),
        ("Corrected text: a file tool", "a file tool"),
        ("Here is the corrected text:\n\na file tool\n\nI changed one word.", "a file tool"),
        ("Here's the edited version: “a file tool”", "a file tool"),
        ("```\na file tool\n```", "a file tool"),
        ("a file tool\n\nNote: I added a letter.", "a file tool"),
        ("", ""),
    ],
)
def test_chatter_around_an_answer_is_taken_off(answer: str, text: str) -> None:
    assert cleaned(answer, "a fil tool") == text


def test_what_the_original_has_is_kept() -> None:
    assert cleaned('"so it is" he said', '"so it was" he said') == '"so it is" he said'
    assert cleaned('"quoted"', '"quotd"') == '"quoted"'
    assert cleaned("one\ntwo", "on\ntwo") == "one\ntwo"


def test_the_first_minimal_answer_of_an_editor_is_taken() -> None:
    skipped: Counter[str] = Counter()
    answers = {
        ("1", 0): ["I am sorry, but as a language model", "Corrected: a file tool"],
        ("1", 1): ["a file tool"],
        ("2", 0): ["something else altogether", ""],
    }

    def acceptable(original: str, edited: str) -> bool:
        return len(set(original.split()) & set(edited.split())) >= 2

    found = edits_of_editor(ROWS, ORIGINALS, answers, acceptable, skipped=skipped)
    assert [(c.row.id, c.row.output, c.negatives[0].text) for c in found] == [("1", "a file tool", "a fil tool")]
    assert skipped == {NOTHING_CHANGED: 1, NO_EDIT: 1}
    edits_of_editor(ROWS, ORIGINALS, {}, acceptable, skipped=skipped)
    assert skipped[TOO_LONG] == 3


def test_an_editor_sees_original_and_reference() -> None:
    row = editing_row(ROWS[0], "a fil tool")
    assert row.fields == {"input": "reads files", "original": "a fil tool", "reference": "a file tool"}
