"""`kill -9` of a whole run at several moments, and `rlft run` again: the same weights, bit for bit, each step once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.support import (
    Here,
    assert_each_once,
    finish_run,
    here,
    killed_run,
    model_bytes,
    ppo,
    recipe_content,
    recipe_of,
    results_of,
    run_sft_here,
    sample_texts,
    sft,
    steps_of,
    write_rows,
)

pytestmark = pytest.mark.integration

FOLDER = Path("runs", "run")


def checkpoint(base: Path, stage: str, step: int) -> Callable[[], bool]:
    """The moment at which a checkpoint is complete: the step before it must have been written down."""
    return (base / FOLDER / "stages" / stage / "checkpoints" / f"step-{step:06d}").exists


def recorded(base: Path, stage: str, count: int) -> Callable[[], bool]:
    """The moment at which so many steps are written down."""
    return lambda: len(steps_of(base / FOLDER, stage)) >= count


def assert_like(folder: Path, undisturbed: Here) -> None:
    """Each step once, with the same samples, metrics and weights, bit for bit."""
    assert_each_once(folder, 5)
    assert sample_texts(folder) == sample_texts(undisturbed.folder)
    assert results_of(folder, "ppo") == results_of(undisturbed.folder, "ppo")
    assert model_bytes(folder) == undisturbed.model()


@pytest.mark.soak
def test_a_run_killed_twice_ends_like_one_that_was_not(base: Path, tiny_model: Path, undisturbed_float32: Here) -> None:
    (base / "recipe.yaml").write_text(json.dumps(recipe_content(tiny_model, ppo())))
    killed_run(base, checkpoint(base, "ppo", 2))
    assert steps_of(base / FOLDER, "ppo")[:2] == [0, 1]
    killed_run(base, recorded(base, "ppo", 4), after_s=0.1)
    finish_run(base)
    assert_like(base / FOLDER, undisturbed_float32)


def test_a_bfloat16_run_killed_between_checkpoints_ends_like_one_that_was_not(
    base: Path, tiny_model: Path, undisturbed_bfloat16: Here
) -> None:
    (base / "recipe.yaml").write_text(json.dumps(recipe_content(tiny_model, ppo(), dtype="bfloat16")))
    killed_run(base, recorded(base, "ppo", 3), after_s=0.05)
    finish_run(base)
    assert_like(base / FOLDER, undisturbed_bfloat16)


@pytest.mark.soak
@pytest.mark.usefixtures("cluster")
def test_a_supervised_run_killed_ends_like_one_that_was_not(base: Path, tiny_model: Path) -> None:
    content = recipe_content(tiny_model, sft(num_steps=40))
    (base / "recipe.yaml").write_text(json.dumps(content))
    other = base / "other"
    other.mkdir()
    write_rows(other)
    undisturbed = here(other, recipe_of(content))
    run_sft_here(undisturbed)

    killed_run(base, checkpoint(base, "sft", 10))
    assert steps_of(base / FOLDER, "sft")[:10] == list(range(10))
    finish_run(base)
    assert steps_of(base / FOLDER, "sft") == list(range(40))
    assert results_of(base / FOLDER, "sft") == results_of(undisturbed.folder, "sft")
    assert model_bytes(base / FOLDER, "sft") == undisturbed.model("sft")
