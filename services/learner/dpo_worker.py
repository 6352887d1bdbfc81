"""The body of an offline DPO learner, run on every rank under Ray Train: same packing and checkpoints as the others."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from rlft_core.config.online import OnlineDpoStage
from rlft_core.config.stages import DpoStage
from rlft_core.evaluation.bootstrap import interval
from rlft_core.models.attention import attention_kind
from rlft_core.models.loading import frozen_policy
from rlft_core.updates.dpo import DpoState, dpo_update, margins_of
from rlft_core.updates.optimizer import make_optimizer
from rlft_core.updates.reward_texts import TokenContrast
from services.learner.contrast_loop import end, share_of_step, take_steps, validates_now
from services.learner.entry import Job
from services.learner.rank import choose_compute, layers_of, load_policy, prepare_rank, shard, told_to
from services.learner.saving import export

RESULT = "result.json"


def dpo_loop(config: dict[str, Any]) -> None:
    """Ray Train's function. `config` holds the Job, refs of the tokenised pairs in their order, and the mailbox."""
    job: Job = config["job"]
    mailbox = config["mailbox"]
    with told_to(mailbox):
        stage = job.recipe.stage(job.stage)
        assert isinstance(stage, DpoStage)
        train: list[TokenContrast] = ray.get(config["train"][0])
        validation: list[TokenContrast] = ray.get(config["validation"][0])
        state, notes = build_state(job, stage)
        if take_steps(state, job, stage, mailbox, notes, lambda: _step(state, stage, train, validation)):
            _finish(state, job, validation)
            end(state, mailbox)


def build_state(job: Job, stage: DpoStage | OnlineDpoStage) -> tuple[DpoState, tuple[str, ...]]:
    """Policy, reference and optimiser as they are at step 0."""
    recipe = job.recipe
    device, collective = prepare_rank(recipe, stage)
    policy = load_policy(recipe, stage, job.start, device)
    compute, notes = choose_compute(recipe, stage, policy, device)
    shard(policy, collective, device, layers_of(policy))
    reference = None
    if not policy.has_adapter:
        reference = frozen_policy(
            job.start,
            attention=attention_kind(device),
            compute=compute.dtype,
            trust_remote_code=recipe.model.trust_remote_code,
        ).to(device)
        shard(reference, collective, device, layers_of(reference))
    return DpoState(policy, make_optimizer(policy, stage.optimizer), reference, compute, collective), notes


def _step(
    state: DpoState, stage: DpoStage, train: Sequence[TokenContrast], validation: Sequence[TokenContrast]
) -> dict[str, float]:
    started = time.perf_counter()
    metrics = dpo_update(state, share_of_step(state, stage, train), stage)
    metrics["time/step_s"] = time.perf_counter() - started
    if validation and validates_now(state, stage):
        metrics["pairs/accuracy_validation"] = _accuracy(state, validation)
    return metrics


def _accuracy(state: DpoState, validation: Sequence[TokenContrast]) -> float:
    """The share of held-out pairs whose preferred text gained more than the other one. A collective."""
    margins = margins_of(state, validation[state.collective.rank :: state.collective.num_ranks])
    counts = torch.tensor([float(sum(margin > 0 for margin in margins)), float(len(margins))], dtype=torch.float64)
    right, number = state.collective.sum(counts).tolist()
    return float(right / max(1.0, number))


def _finish(state: DpoState, job: Job, validation: Sequence[TokenContrast]) -> None:
    """Write the model, and what held-out pairs say of it. A collective."""
    export(job, state.policy, state.collective.rank)
    if not validation:
        return
    margins = margins_of(state, validation[state.collective.rank :: state.collective.num_ranks])
    gathered = torch.zeros(state.collective.num_ranks, sum(len(contrast.negatives) for contrast in validation))
    gathered[state.collective.rank, : len(margins)] = torch.tensor(margins)
    sizes = torch.zeros(state.collective.num_ranks)
    sizes[state.collective.rank] = len(margins)
    whole, counts = state.collective.sum(gathered), state.collective.sum(sizes)
    if state.collective.rank == 0:
        every = [float(v) for rank, count in enumerate(counts.tolist()) for v in whole[rank, : int(count)]]
        result = {
            "accuracy": interval([float(margin > 0) for margin in every]).as_dict(),
            "margin": interval(every).as_dict(),
        }
        Path(job.folder, RESULT).write_text(json.dumps(result, indent=1), encoding="utf-8")
