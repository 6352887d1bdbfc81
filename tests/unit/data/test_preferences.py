"""Preference pairs in the shapes that people have them, and what is said of those that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlft_core.data.preferences import Preferences, load_preferences
from rlft_core.errors import DataError

ASKED = {"role": "user", "content": "What is it?"}


def read(folder: Path, *rows: dict[str, Any], **keys: Any) -> Preferences:
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_preferences("pairs.jsonl", base_dir=folder, **keys)


def said(*texts: str) -> list[dict[str, str]]:
    return [ASKED, *({"role": "assistant", "content": text} for text in texts)]


@pytest.mark.parametrize(
    "row, prompt, chosen, rejected",
    [
        ({"prompt": "What is it?", "chosen": "A tool", "rejected": "No"}, "What is it?", "A tool", "No"),
        ({"prompt": "What?", "chosen": said("A tool"), "rejected": said("No")}, "What?", "A tool", "No"),
        ({"chosen": said("A tool"), "rejected": said("No")}, "What is it?", "A tool", "No"),
        ({"prompt": [ASKED], "chosen": said("A tool"), "rejected": said("No")}, "What is it?", "A tool", "No"),
        ({"prompt": [ASKED], "chosen": said("A tool")[1:], "rejected": said("No")[1:]}, "What is it?", "A tool", "No"),
        (
            {"prompt": said("Hi")[:2], "chosen": "A tool", "rejected": "No"},
            "User: What is it?\n\nAssistant: Hi",
            "A tool",
            "No",
        ),
        (
            {"chosen": "\n\nHuman: What?\n\nAssistant: A tool", "rejected": "\n\nHuman: What?\n\nAssistant: No"},
            "What?",
            "A tool",
            "No",
        ),
        (
            {
                "chosen": "Human: Hi\n\nAssistant: Hello\n\nHuman: What?\n\nAssistant: A tool",
                "rejected": "Human: Hi\n\nAssistant: Hello\n\nHuman: What?\n\nAssistant: No",
            },
            "User: Hi\n\nAssistant: Hello\n\nUser: What?",
            "A tool",
            "No",
        ),
        (
            {"prompt": "p", "chosen": [{"from": "gpt", "value": "A"}], "rejected": [{"from": "gpt", "value": "B"}]},
            "p",
            "A",
            "B",
        ),
        ({"prompt": "p", "chosen": "Human: a being", "rejected": "Assistant: No"}, "p", "Human: a being", "No"),
        ({"prompt": "p", "chosen": "It says\n\nHuman: x", "rejected": "No"}, "p", "It says\n\nHuman: x", "No"),
    ],
)
def test_common_shapes_are_understood(
    tmp_path: Path, row: dict[str, Any], prompt: str, chosen: str, rejected: str
) -> None:
    (pair,) = read(tmp_path, row).pairs
    assert (pair.row.input, pair.row.output, pair.rejected) == (prompt, chosen, rejected)
    assert pair.row.id == "pairs:1"


def test_pairs_without_a_winner_are_left_out_and_counted(tmp_path: Path) -> None:
    same = {"prompt": "p", "chosen": "A ", "rejected": "A"}
    found = read(tmp_path, same, {"prompt": "p", "chosen": "A", "rejected": "B"})
    assert (len(found.pairs), found.num_equal) == (1, 1)
    with pytest.raises(DataError, match=r"holds no pair with a winner \(1 have two equal answers\)"):
        read(tmp_path, same)


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    row = {"question": "q", "better": "A", "worse": "B", "score": 3}
    (pair,) = read(tmp_path, row, prompt_field="question", chosen_field="better", rejected_field="worse").pairs
    assert pair.row.fields["score"] == 3


@pytest.mark.parametrize(
    "row, told",
    [
        ({"prompt": "p", "chosen": "A"}, "line 1: no field 'rejected'. The row has chosen, prompt"),
        ({"chosen": "A", "rejected": "B"}, "no task: 'prompt' is no text"),
        ({"prompt": "p", "chosen": "", "rejected": "B"}, "field 'chosen' must be text, or a list of messages"),
        ({"prompt": "p", "chosen": [ASKED], "rejected": "B"}, "'chosen' does not end with what the assistant said"),
        (
            {"chosen": "\n\nHuman: Hi\n\nAssistant:", "rejected": "\n\nHuman: Hi\n\nAssistant: B"},
            "'chosen' does not end with what the assistant said",
        ),
        (
            {"prompt": "p", "chosen": "A", "rejected": "\n\nHuman: p\n\nAssistant: B\n\nHuman: thanks"},
            "'rejected' does not end with what the assistant said",
        ),
        ({"prompt": "p", "chosen": ["A"], "rejected": "B"}, "field 'chosen', message 1: needs a role"),
        ({"chosen": said("A"), "rejected": said("x", "B")}, "do not begin with the same conversation"),
    ],
)
def test_what_cannot_be_used_names_row_and_field(tmp_path: Path, row: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        read(tmp_path, row)
