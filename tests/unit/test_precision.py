"""What `model.dtype: auto` means: what the run began with, else what this machine multiplies quickly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rlft_core.config.load import parse_recipe
from rlft_core.config.recipe import Recipe
from rlft_core.models.compute import quick_dtype
from services.machine import facts
from services.pipeline.precision import with_precision


def recipe(*overrides: str) -> Recipe:
    return parse_recipe({"name": "mine", "data": {"train": "a"}, "stages": [{"type": "sft"}]}, overrides)


@pytest.mark.parametrize(
    "overrides, quick, wanted",
    [
        ((), True, "bfloat16"),
        ((), False, "float32"),
        (("model.dtype=bfloat16",), False, "bfloat16"),
        (("model.dtype=float32",), True, "float32"),
        (("cluster.address=10.0.0.1:6379",), False, "bfloat16"),
    ],
)
def test_auto_is_what_is_quick_here_and_bfloat16_elsewhere(
    overrides: tuple[str, ...], quick: bool, wanted: str, tmp_path: Path
) -> None:
    assert with_precision(recipe(*overrides), runs_dir=tmp_path, quick=quick).model.dtype == wanted


@pytest.mark.parametrize("content", [{"model": {"dtype": "float32"}}, {"model": {"dtype": "bfloat16"}}])
def test_a_run_keeps_what_it_began_with(content: dict[str, dict[str, str]], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.resolved.json").write_text(json.dumps(content))
    for quick in (True, False):
        assert with_precision(recipe(), runs_dir=tmp_path, quick=quick).model.dtype == content["model"]["dtype"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model": {"dtype": "auto"}}', '{"model": {"dtype": "int8"}}'])
def test_a_record_that_says_nothing_is_passed_over(content: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.resolved.json").write_text(content)
    assert with_precision(recipe(), runs_dir=tmp_path, quick=False).model.dtype == "float32"


def test_torch_and_the_processor_say_the_same_of_this_machine() -> None:
    found = facts()
    if not found.cpu_flags:
        pytest.skip("a processor that says nothing of itself")
    assert (quick_dtype(torch.device("cpu")) == torch.bfloat16) == (
        "avx512f" in found.cpu_flags or "avx2" not in found.cpu_flags
    )
