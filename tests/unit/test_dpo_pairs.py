"""Pairs of a DPO stage: what is left out on either side is told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlft_core.config.load import parse_recipe
from rlft_core.config.stages import DpoStage
from rlft_core.errors import DataError
from rlft_core.negatives import Contrast, Negative
from rlft_core.types import Row
from services.pipeline.stage_dpo import _encoded


def contrast(number: int, rejected: str) -> Contrast:
    return Contrast(Row(f"row-{number}", f"a file {number}", "a tool"), (Negative("rejected", rejected),))


def encoded(folder: Path, train: list[Contrast], validation: list[Contrast]) -> tuple[int, int, list[str]]:
    """How many pairs are left on each side, and what was told."""
    recipe = parse_recipe(
        {
            "model": {"max_length": 64},
            "data": {"train": "rows.jsonl", "max_prompt_tokens": 40},
            "stages": [
                {"type": "dpo", "num_steps": 2, "batch_rows": 2, "pairs": {"source": "file", "train": "pairs.jsonl"}}
            ],
        }
    )
    (stage,) = recipe.stages
    assert isinstance(stage, DpoStage)
    told: list[str] = []
    context: Any = SimpleNamespace(recipe=recipe, notice=told.append)
    found = _encoded(context, stage, str(folder), (train, validation))
    return len(found[0]), len(found[1]), told


def test_what_is_left_out_is_told_of_both_sides(tiny_folder: Path) -> None:
    long, same, good = "a file " * 60, "a tool", "no"
    assert encoded(tiny_folder, [contrast(0, good)], [contrast(1, good)]) == (4, 1, [])
    _, held_out, told = encoded(tiny_folder, [contrast(0, good), contrast(1, same)], [contrast(2, long)])
    assert held_out == 0
    why = "equal texts, or too long, and left out: rejected 1, rows without any negative, or too long 1"
    assert told == [
        f"stages.dpo, pairs: {why}",
        f"stages.dpo, pairs held out: {why}",
        "stages.dpo: no pair that is held out is left, so nobody measures what is preferred",
    ]
    with pytest.raises(DataError, match=r"stages\.dpo\.pairs: of 1 pairs none can be trained on"):
        encoded(tiny_folder, [contrast(0, long)], [])
