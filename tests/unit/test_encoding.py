"""Rows that are too long for a stage are refused, or left out and told; never dropped unseen."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlft_core.config.load import parse_recipe
from rlft_core.config.recipe import Recipe
from rlft_core.errors import DataError
from rlft_core.models.loading import load_tokenizer
from rlft_core.negatives import Contrast, Negative
from rlft_core.types import Row
from services.pipeline.encoding import LEFT_OUT, REWRITTEN, encode_contrasts, encode_pairs, encode_prompts

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


def test_negatives_that_are_the_reference_in_tokens_or_too_long_are_counted(tokenizer: Any) -> None:
    row = Row("short", "a file", "a tool")
    good = Negative("shuffled", "tool a")
    same, long, cut = (
        Negative("typos", "a tool"),
        Negative("copy", "a file " * 60),
        Negative("run_on", "a tool a", False),
    )
    skipped: Counter[str] = Counter()
    (found,) = encode_contrasts(recipe("error"), [Contrast(row, (good, same, long, cut))], tokenizer, skipped=skipped)
    assert found.kinds == ("shuffled", "run_on")
    assert skipped == {"typos": 1, "copy": 1}
    assert found.positive[-1] == found.negatives[0][-1] == tokenizer.eos_token_id
    assert found.negatives[1][-1] != tokenizer.eos_token_id  # it never ends


def test_a_contrast_left_without_a_negative_is_counted(tokenizer: Any) -> None:
    skipped: Counter[str] = Counter()
    rows = [Contrast(ROWS[0], (Negative("typos", "a tool"),)), Contrast(ROWS[1], (Negative("typos", "a toll"),))]
    assert encode_contrasts(recipe("error"), rows, tokenizer, skipped=skipped) == []
    assert skipped == {"typos": 1, LEFT_OUT: 2}


def test_tokens_that_differ_are_marked_on_both_sides(tokenizer: Any) -> None:
    row = Row("short", "a file", "a small tool")
    negatives = (
        Negative("typos", "a smoll tool"),
        Negative("dropped", "a tool"),
        Negative("cut", "a small tool", False),
    )
    skipped: Counter[str] = Counter()
    (found,) = encode_contrasts(recipe("error"), [Contrast(row, negatives)], tokenizer, skipped=skipped, marked=True)
    assert len(found.changed) == 3

    def text(ids: tuple[int, ...], at: tuple[int, ...]) -> str:
        return str(tokenizer.decode([ids[t] for t in at])).strip()

    for number, (better, worse) in enumerate((("small", "smoll"), ("small", ""))):
        good, bad = found.changed[number]
        assert set(better) >= set(text(found.positive, good).replace(" ", ""))
        assert set(worse) >= set(text(found.negatives[number], bad).replace(" ", ""))
        assert good
    assert found.changed[0][1]
    assert found.changed[1][1] == ()
    assert found.changed[2] == ((len(found.positive) - 1,), ())  # only its end is missing


def test_an_edit_that_rewrites_is_left_out_and_counted(tokenizer: Any) -> None:
    row = Row("short", "a file", "a small tool")
    negatives = (Negative("corrected", "a smal tool"), Negative("corrected", "games for everybody else"))
    skipped: Counter[str] = Counter()
    (found,) = encode_contrasts(
        recipe("error"), [Contrast(row, negatives)], tokenizer, skipped=skipped, marked=True, min_kept=0.4
    )
    assert len(found.negatives) == len(found.changed) == 1
    assert skipped == {REWRITTEN: 1}
