"""The body of a reward model's learner, run on every rank under Ray Train: same packing and checkpoints as the others.

When training ends the weights are rounded to the precision in which they will be saved, and only then measured: what
`result.json` says is said of the model that serves.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from torch.distributed.fsdp import FSDPModule

from rlft_core.checkpoints.export import full_weights, write_model
from rlft_core.config.stages import RewardModelStage
from rlft_core.evaluation.pairs import pairs_report
from rlft_core.evaluation.token_rewards import found_tokens, shown_tokens
from rlft_core.models.attention import attention_kind
from rlft_core.models.loading import load_tokenizer, trainable_reward_model
from rlft_core.models.reward_model import RewardFacts, with_padding
from rlft_core.updates.optimizer import make_optimizer
from rlft_core.updates.reward import RewardState, reward_update, score_contrasts, text_score, token_entries
from rlft_core.updates.reward_texts import TokenContrast
from services.learner.contrast_loop import end, share_of_step, take_steps, validates_now
from services.learner.entry import Job
from services.learner.rank import choose_compute, layers_of, prepare_rank, shard, told_to
from services.learner.saving import MODEL, dtype_of

RESULT, TOKENS = "result.json", "tokens.jsonl"
_SMALLEST_SPREAD = 1e-3


def reward_loop(config: dict[str, Any]) -> None:
    """Ray Train's function. `config` holds the Job, refs of the tokenised contrasts in their order, and the mailbox."""
    job: Job = config["job"]
    mailbox = config["mailbox"]
    with told_to(mailbox):
        stage = job.recipe.stage(job.stage)
        assert isinstance(stage, RewardModelStage)
        train: list[TokenContrast] = ray.get(config["train"][0])
        validation: list[TokenContrast] = ray.get(config["validation"][0])
        state, notes = build_state(job, stage)
        if take_steps(state, job, stage, mailbox, notes, lambda: _step(state, stage, train, validation)):
            _finish(state, job, stage, validation or train[: stage.validation_rows], held_out=bool(validation))
            end(state, mailbox)


def build_state(job: Job, stage: RewardModelStage) -> tuple[RewardState, tuple[str, ...]]:
    """Model and optimiser as they are at step 0."""
    recipe = job.recipe
    device, collective = prepare_rank(recipe, stage)
    model = trainable_reward_model(
        job.start,
        attention=attention_kind(device),
        freeze=stage.learner.freeze,
        gradient_checkpointing=stage.learner.gradient_checkpointing,
        trust_remote_code=recipe.model.trust_remote_code,
        seed=recipe.seed,
    ).to(device)
    compute, notes = choose_compute(recipe, stage, model, device)
    shard(model, collective, device, layers_of(model))
    return RewardState(model, make_optimizer(model, stage.optimizer), compute, collective), notes


def _step(
    state: RewardState, stage: RewardModelStage, train: Sequence[TokenContrast], validation: Sequence[TokenContrast]
) -> dict[str, float]:
    started = time.perf_counter()
    metrics = reward_update(state, share_of_step(state, stage, train), stage)
    metrics["time/step_s"] = time.perf_counter() - started
    if validation and validates_now(state, stage):
        report = pairs_report(score_contrasts(state, validation, stage), [c.kinds for c in validation])
        metrics["pairs/accuracy_validation"] = report["overall"]["mean"]
    return metrics


def _finish(
    state: RewardState, job: Job, stage: RewardModelStage, measured: Sequence[TokenContrast], *, held_out: bool
) -> None:
    """Round, measure, normalise, write. A collective."""
    dtype = dtype_of(job.recipe)
    round_to(state, dtype)
    entries = token_entries(state, measured)
    report, facts = findings(entries, measured, stage, job)
    weights = full_weights(state.model)
    if state.collective.rank != 0:
        return
    tokenizer = load_tokenizer(job.start, trust_remote_code=job.recipe.model.trust_remote_code)
    with_padding(tokenizer, state.model.inner)
    write_model(Path(job.folder, MODEL), state.model, weights, tokenizer, dtype, facts=facts)
    if not held_out:
        return
    Path(job.folder, RESULT).write_text(json.dumps(report, indent=1), encoding="utf-8")
    if stage.level == "token":
        lines = shown_tokens(entries, measured, facts, tokenizer)
        Path(job.folder, TOKENS).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def findings(
    entries: Sequence[Sequence[np.ndarray]], measured: Sequence[TokenContrast], stage: RewardModelStage, job: Job
) -> tuple[dict[str, Any], RewardFacts]:
    """What the measured contrasts say of the model, and the facts that stand beside its weights."""
    scores = [[text_score(text[1:], stage) for text in texts] for texts in entries]
    report = pairs_report(scores, [contrast.kinds for contrast in measured], seed=job.recipe.seed)
    report["level"] = stage.level
    report["localisation"] = found_tokens(entries, measured, stage, seed=job.recipe.seed)
    mean, std = 0.0, 1.0
    if stage.normalize and not stage.squashes:
        good = np.concatenate(
            [texts[0][1:] for texts in entries] if stage.level == "token" else [[s[0] for s in scores]]
        )
        mean, std = float(good.mean()), max(float(good.std()), _SMALLEST_SPREAD)
    prompt, length = job.recipe.data.prompt, job.recipe.model.max_length
    facts = RewardFacts(
        mean, std, prompt.system, prompt.template, prompt.chat, length, level=stage.level, squash=stage.squashes
    )
    return report, facts


@torch.no_grad()
def round_to(state: RewardState, dtype: torch.dtype) -> None:
    """Round all weights to the numbers that `dtype` has; they stay in the precision they are held in."""
    for part in state.model.modules():
        if isinstance(part, FSDPModule):
            part.reshard()  # a pass without gradient leaves whole copies behind, which would be rounded instead
    for parameter in state.model.parameters():
        parameter.copy_(parameter.to(dtype))
