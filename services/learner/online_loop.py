"""The learner's side of the loop, the same for every update:

    resume or start ─▶ register, publish version `step` ─▶ ┌ take ─▶ update ─▶ publish ─▶ ack ─▶ checkpoint if due ┐
                                                           └───────────────────────────────────────────────────────┘

A checkpoint is written while the next samples are made, once the coordinator has written down the step's metrics. The tuned
model is written before the last step is acknowledged: a learner that dies while it writes is restarted and does its last
steps again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import ray

from rlft_core.checkpoints import state as saved
from rlft_core.config.online import OnlineStage
from rlft_core.models.compute import Compute
from rlft_core.models.policy import Policy
from rlft_core.types import Batch, ScoredGroup
from services.learner.entry import Job
from services.learner.mailbox import Keep, Save
from services.learner.publisher import Publisher
from services.learner.rank import standing
from services.learner.saving import Facts, Training, dtype_of, export, save, save_if_due

Update = Callable[[Batch], dict[str, float]]
"""One update from this rank's groups; metrics of the whole step. A collective."""


class Tuning(Training, Protocol):
    """The state of an update that tunes a policy."""

    policy: Policy
    compute: Compute


def serve_updates(
    config: dict[str, Any],
    stage: OnlineStage,
    state: Tuning,
    notes: Sequence[str],
    update: Update,
    beside_policy: Callable[[], tuple[saved.Tensors, Facts]],
) -> None:
    """Do the steps that are left, and stay until the coordinator has no more work.

    `beside_policy`: what a checkpoint needs besides the policy and its optimiser.
    """
    job: Job = config["job"]
    mailbox, rank, save_s = config["mailbox"], state.collective.rank, 0.0
    publisher = Publisher(
        state.policy, state.compute, state.collective, dtype=dtype_of(job.recipe), probe_pair=config["probe"]
    )
    publication, _ = publisher.publish(state.step)
    here = standing(state.step, state.collective, notes)
    if rank == 0:
        ray.get(mailbox.register.remote(here, publication))
    while True:
        refs = ray.get(mailbox.take.remote(state.step, rank))
        if refs is None:
            break
        if isinstance(refs, Keep | Save):
            if isinstance(refs, Keep):
                export(job, state.policy, rank, refs.name)
            else:
                save(state, job, stage, beside_policy)
            _carried_out(state, mailbox)
            continue
        started = time.perf_counter()
        groups: list[ScoredGroup] = ray.get(list(refs))
        fetched = time.perf_counter()
        metrics = update(Batch(tuple(groups), state.step, state.collective.num_ranks))
        updated = time.perf_counter()
        if state.step == stage.num_steps:
            export(job, state.policy, rank)
        publication, publish_s = publisher.publish(state.step)
        metrics |= {
            "time/learner_fetch_s": fetched - started,
            "time/learner_update_s": updated - fetched,
            "time/learner_save_s": save_s,
            "time/learner_publish_s": publish_s,
        }
        if rank == 0:
            ray.get(mailbox.ack.remote(metrics, publication))
        save_s = save_if_due(state, job, stage, mailbox, beside_policy)
    state.collective.barrier()


def _carried_out(state: Tuning, mailbox: Any) -> None:
    """Say that an order is done. No rank asks for more work before it is withdrawn."""
    if state.collective.rank == 0:
        ray.get(mailbox.kept.remote())
    state.collective.barrier()
