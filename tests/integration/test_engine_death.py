"""A rollout engine that is killed during a run: the run goes on, every prompt of every step is answered once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from services.training.services import LoopServices
from tests.integration.support import (
    Disturbance,
    Here,
    assert_each_once,
    here,
    kill,
    metrics_of,
    ppo,
    recipe_content,
    recipe_of,
    recorded,
    results_of,
    run_ppo_here,
    sample_texts,
)

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("cluster")]


def killing_engine(run: Here, name: str, *, after_rows: int, after_s: float = 0.0) -> Disturbance:
    """Kill the process of an engine once so many steps are recorded."""

    async def disturb(services: LoopServices) -> None:
        await recorded(run.folder, after_rows)
        await asyncio.sleep(after_s)
        (pid,) = [found["pid"] for found in await services.rollouts.info() if found["name"] == name]
        kill(pid)

    return disturb


def test_the_only_engine_dies_and_the_result_is_the_same(
    base: Path, tiny_model: Path, undisturbed_float32: Here
) -> None:
    run = here(base, recipe_of(recipe_content(tiny_model, ppo())))
    run_ppo_here(run, killing_engine(run, "engine-0", after_rows=2, after_s=0.1))
    assert_each_once(run.folder, 5)
    assert metrics_of(run.folder, "ppo")[-1]["engines/restarts"] == 1
    assert "engine engine-0 died in" in run.told.getvalue()
    assert "engine engine-0 is back after" in run.told.getvalue()
    assert sample_texts(run.folder) == sample_texts(undisturbed_float32.folder)
    assert results_of(run.folder, "ppo") == results_of(undisturbed_float32.folder, "ppo")
    assert run.model() == undisturbed_float32.model()


def test_one_of_two_engines_dies_and_the_other_answers_for_it(
    base: Path, tiny_model: Path, undisturbed_scripted: Here
) -> None:
    run = here(base, recipe_of(recipe_content(tiny_model, ppo(engine="fake")), "stages.ppo.rollout.num_engines=2"))
    run_ppo_here(run, killing_engine(run, "engine-1", after_rows=1))
    assert_each_once(run.folder, 5)
    assert metrics_of(run.folder, "ppo")[-1]["engines/restarts"] == 1
    assert sample_texts(run.folder) == sample_texts(undisturbed_scripted.folder)
    assert run.model() == undisturbed_scripted.model()
