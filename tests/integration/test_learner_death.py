"""A learner rank that is killed: the run goes on from the last checkpoint, or says what died; two ranks are as one."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from rlft_core.errors import LearnerError
from services.training.services import LoopServices
from tests.integration.support import (
    Disturbance,
    Here,
    assert_each_once,
    here,
    kill,
    largest_difference,
    ppo,
    recipe_content,
    recipe_of,
    recorded,
    results_of,
    run_ppo_here,
    steps_of,
)

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("cluster")]

SAME_OVER_RANKS = 1e-4


def scripted(base: Path, model: Path, *overrides: str) -> Here:
    return here(base, recipe_of(recipe_content(model, ppo(engine="fake")), *overrides))


def killing_rank(run: Here, rank: int, *, after_rows: int) -> Disturbance:
    """Kill a rank once so many steps are recorded."""

    async def disturb(services: LoopServices) -> None:
        await recorded(run.folder, after_rows)
        standing = services.learner.standing
        assert standing is not None
        kill(standing.pids[rank])

    return disturb


def test_one_rank_goes_on_from_its_checkpoint(base: Path, tiny_model: Path, undisturbed_scripted: Here) -> None:
    run = scripted(base, tiny_model)
    run_ppo_here(run, killing_rank(run, 0, after_rows=3))
    assert_each_once(run.folder, 5)
    assert "the learner restarted at step 2" in run.told.getvalue()
    assert results_of(run.folder, "ppo") == results_of(undisturbed_scripted.folder, "ppo")
    assert run.model() == undisturbed_scripted.model()


def killing_rank_and_engine(run: Here, *, after_rows: int) -> Disturbance:
    """Kill the rank and the only engine together, as when their node goes, once a step's samples are asked for."""

    async def disturb(services: LoopServices) -> None:
        begun, generate = asyncio.Event(), services.rollouts.generate

        def generate_after(*asked: Any) -> Any:
            standing = services.learner.standing
            if not begun.is_set() and len(steps_of(run.folder, "ppo")) >= after_rows and standing is not None:
                (engine,) = services.rollouts.actors()
                kill(standing.pids[0])
                kill(engine["pid"])
                begun.set()
            return generate(*asked)

        services.rollouts.generate = generate_after  # type: ignore[method-assign]
        await begun.wait()

    return disturb


def test_rank_and_only_engine_die_together_while_samples_are_drawn(
    base: Path, tiny_model: Path, undisturbed_scripted: Here
) -> None:
    """The engine that is started again needs weights that went with the learner: nobody may wait for those."""
    run = scripted(base, tiny_model)
    run_ppo_here(run, killing_rank_and_engine(run, after_rows=3))
    assert_each_once(run.folder, 5)
    assert "engine engine-0 died in 'generate'" in run.told.getvalue()
    assert "the learner restarted at step 2" in run.told.getvalue()
    assert results_of(run.folder, "ppo") == results_of(undisturbed_scripted.folder, "ppo")
    assert run.model() == undisturbed_scripted.model()


@pytest.mark.soak
def test_without_a_checkpoint_it_goes_back_to_the_start(
    base: Path, tiny_model: Path, undisturbed_scripted: Here
) -> None:
    run = scripted(base, tiny_model)
    run_ppo_here(run, killing_rank(run, 0, after_rows=1))
    assert_each_once(run.folder, 5)
    assert "the learner restarted at step 0" in run.told.getvalue()
    assert run.model() == undisturbed_scripted.model()


@pytest.mark.soak
def test_two_ranks_give_what_one_gives(base: Path, tiny_model: Path, undisturbed_scripted: Here) -> None:
    run = scripted(base, tiny_model, "stages.ppo.learner.num_ranks=2")
    run_ppo_here(run)
    assert_each_once(run.folder, 5)
    expected = results_of(undisturbed_scripted.folder, "ppo")
    assert largest_difference(results_of(run.folder, "ppo"), expected) < SAME_OVER_RANKS


@pytest.mark.soak
def test_one_of_two_ranks_dies_and_both_go_on(base: Path, tiny_model: Path, undisturbed_scripted: Here) -> None:
    run = scripted(base, tiny_model, "stages.ppo.learner.num_ranks=2")
    run_ppo_here(run, killing_rank(run, 1, after_rows=4))
    assert_each_once(run.folder, 5)
    assert "the learner restarted at step" in run.told.getvalue()
    expected = results_of(undisturbed_scripted.folder, "ppo")
    assert largest_difference(results_of(run.folder, "ppo"), expected) < SAME_OVER_RANKS


@pytest.mark.soak
def test_with_no_restart_left_the_run_ends_and_names_the_rank(base: Path, tiny_model: Path) -> None:
    run = scripted(base, tiny_model, "stages.ppo.learner.max_restarts=0")
    killed_at: list[float] = []

    async def disturb(services: LoopServices) -> None:
        await killing_rank(run, 0, after_rows=1)(services)
        killed_at.append(time.monotonic())

    with pytest.raises(LearnerError, match=r"learner\.max_restarts.*rank 0"):
        run_ppo_here(run, disturb)
    assert time.monotonic() - killed_at[0] < 30
    assert 1 <= len(steps_of(run.folder, "ppo")) < 5
