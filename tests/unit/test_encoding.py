"""Rows that are too long for a stage are refused, or left out and told; never dropped unseen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlft_core.config.load import parse_recipe
from rlft_core.config.recipe import Recipe
from rlft_core.errors import DataError
from rlft_core.models.loading import load_tokenizer
from rlft_core.types import Row
from services.pipeline.encoding import encode_pairs, encode_prompts

ROWS = [Row("short", "a file", "a tool"), Row("long", "a file", "a small tool " * 60), Row("next", "a game", "a game")]


@pytest.fixture
def tokenizer(tiny_folder: Path) -> Any:
    return load_tokenizer(tiny_folder)


def recipe(too_long: str, max_length: int = 64) -> Recipe:
    content = {
        "model": {"max_length": max_length},
        "data": {"train": "rows.jsonl", "too_long": too_long, "max_prompt_tokens": 40},
        "stages": [{"type": "sft"}],
    }
    return parse_recipe(content)


def test_a_pair_that_is_too_long_names_its_row(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"data\.train: prompt and output of row long have .* model\.max_length \(64\)"):
        encode_pairs(recipe("error"), ROWS, tokenizer, source="data.train", notice=pytest.fail)


def test_pairs_left_out_are_counted_and_told(tokenizer: Any) -> None:
    told: list[str] = []
    pairs = encode_pairs(recipe("skip"), ROWS, tokenizer, source="data.train", notice=told.append)
    assert [tokenizer.decode(target, skip_special_tokens=True) for _, target in pairs] == ["a tool", "a game"]
    assert told == ["data.train: 1 of 3 rows are longer than 64 tokens and take no part"]


def test_no_pair_left_is_an_error_and_no_row_at_all_is_none(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="all 1 rows exceed"):
        encode_pairs(recipe("skip"), ROWS[1:2], tokenizer, source="data.train", notice=pytest.fail)
    assert encode_pairs(recipe("skip"), [], tokenizer, source="data.validation", notice=pytest.fail) == []


def test_prompts_left_out_are_counted_and_told(tokenizer: Any) -> None:
    told: list[str] = []
    rows = [ROWS[0], Row("wordy", "a small tool " * 60, "a tool")]
    found = encode_prompts(recipe("skip"), rows, tokenizer, max_new_tokens=8, source="data.test", notice=told.append)
    assert [row.id for row in found.rows] == ["short"]
    assert told == ["data.test: 1 of 2 rows have prompts that are too long and take no part"]
