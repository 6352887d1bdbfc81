"""The loop of learners that read contrasts (reward models, offline preferences): register, step, report, save."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray

from rlft_core.config.stages import DpoStage, RewardModelStage
from services.learner.entry import Job
from services.learner.rank import standing
from services.learner.saving import Training, goes_on, restore

T = TypeVar("T")
ContrastStage = RewardModelStage | DpoStage


def take_steps(
    state: Training,
    job: Job,
    stage: ContrastStage,
    mailbox: Any,
    notes: Sequence[str],
    step: Callable[[], dict[str, float]],
) -> bool:
    """Continue from the newest checkpoint to the last step. A collective; False: the run ended first."""
    restore(state, job)
    here = standing(state.step, state.collective, notes)
    if state.collective.rank == 0:
        ray.get(mailbox.register.remote(here, None))
    while state.step < stage.num_steps:
        metrics = step()
        if state.collective.rank == 0:
            ray.get(mailbox.report.remote(state.step - 1, metrics))
        if not goes_on(state, job, stage, mailbox, lambda: ({}, {})):
            return False
    return True


def end(state: Training, mailbox: Any) -> None:
    """Say that everything is written. A collective."""
    state.collective.barrier()
    if state.collective.rank == 0:
        ray.get(mailbox.close.remote())


def share_of_step(state: Training, stage: ContrastStage, train: Sequence[T]) -> list[T]:
    """What this rank learns from in the next step, of contrasts that stand in their order."""
    first, rank, num_ranks = state.step * stage.batch_rows, state.collective.rank, state.collective.num_ranks
    return [train[(first + k) % len(train)] for k in range(rank, stage.batch_rows, num_ranks)]


def validates_now(state: Training, stage: ContrastStage) -> bool:
    """Whether held-out contrasts are measured after this step."""
    return bool(stage.validate_every) and state.step % stage.validate_every == 0
