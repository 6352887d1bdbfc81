"""What a learner leaves on disk: checkpoints when they are due, and the tuned model. The same for every kind of training."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import ray
import torch
from torch import nn

from rlft_core.checkpoints import folder as checkpoints
from rlft_core.checkpoints import state as saved
from rlft_core.checkpoints.adapter import adapter_of
from rlft_core.checkpoints.export import full_weights, write_model
from rlft_core.checkpoints.folder import sync_folder
from rlft_core.config.recipe import Recipe, TrainingStage
from rlft_core.models.loading import load_tokenizer
from rlft_core.models.policy import Policy
from rlft_core.updates.collective import Collective
from services.learner.entry import Job
from services.learner.mailbox import CLOSED, OPEN

Facts = dict[str, Any]
MODEL, BEST = "model", "best"


class Training(Protocol):
    """What the state of every kind of training has."""

    optimizer: torch.optim.AdamW
    collective: Collective
    step: int

    @property
    def module(self) -> nn.Module:
        """What is trained and saved first."""
        ...


def restore(state: Training, job: Job) -> tuple[saved.Tensors, Facts] | None:
    """Continue from the newest complete checkpoint; its other contents are the caller's. None when there is none."""
    path = checkpoints.latest(checkpoints_of(job))
    if path is None:
        return None
    tensors, facts = checkpoints.load(path)
    saved.check_origin(facts, fingerprint=job.fingerprint)
    saved.load_module(state.module, tensors["policy"])
    saved.load_optimizer(state.module, state.optimizer, tensors["optimizer"])
    saved.load_random_state(tensors["random"])
    state.step = facts["step"]
    return tensors, facts


More = Callable[[], tuple[saved.Tensors, Facts]]


def save_if_due(state: Training, job: Job, stage: TrainingStage, mailbox: Any, more: More) -> float:
    """Write a checkpoint with what `more` adds, if one is due after this step. A collective; returns its seconds.

    It waits until the coordinator has written down the steps so far. The last step's result is the exported model.
    """
    if state.step % stage.checkpoint.every or state.step == stage.num_steps:
        return 0.0
    if not _settled(mailbox, state.collective):
        return 0.0
    return save(state, job, stage, more)


def save(state: Training, job: Job, stage: TrainingStage, more: More) -> float:
    """Write a checkpoint now, unless there is one of this step. A collective; returns its seconds."""
    started = time.perf_counter()
    tensors, facts = more()
    tensors |= {
        "policy": saved.module_tensors(state.module),
        "optimizer": saved.optimizer_tensors(state.module, state.optimizer),
        "random": saved.random_state(),
    }
    facts |= {"step": state.step, "fingerprint": job.fingerprint, "start": job.start}
    root = checkpoints_of(job)
    if state.collective.rank == 0 and not checkpoints.is_complete(checkpoints.path_of(root, state.step)):
        checkpoints.save(root, state.step, tensors=tensors, state=facts, keep=stage.checkpoint.keep)
    state.collective.barrier()
    return time.perf_counter() - started


def goes_on(state: Training, job: Job, stage: TrainingStage, mailbox: Any, more: More) -> bool:
    """After a step of a learner that takes its steps by itself: save if that is due, or if it should halt. A collective.

    False: the learner ends here, with nothing to export.
    """
    order = torch.zeros(1)
    if state.collective.rank == 0:  # one rank asks, so that all do the same
        order[0] = ray.get(mailbox.standing_order.remote())
    order = state.collective.max(order)
    if order[0] == CLOSED:
        return False
    if order[0] == OPEN or state.step == stage.num_steps:
        save_if_due(state, job, stage, mailbox, more)
        return True
    if _settled(mailbox, state.collective):
        save(state, job, stage, more)
    if state.collective.rank == 0:
        ray.get(mailbox.halting.remote())
    return False


def _settled(mailbox: Any, collective: Collective) -> bool:
    """Waits until the coordinator has written down the steps so far; False when it is ending. A collective."""
    answer = torch.zeros(1)
    if collective.rank == 0:
        answer[0] = ray.get(mailbox.settled.remote())
    return bool(collective.max(answer)[0])


def export(job: Job, policy: Policy, rank: int, name: str = MODEL) -> None:
    """Write the tuned model as a Hugging Face folder, by default as the stage's result. A collective."""
    weights, adapter = full_weights(policy), adapter_of(policy)
    if rank == 0:
        tokenizer = load_tokenizer(job.start, trust_remote_code=job.recipe.model.trust_remote_code)
        write_model(Path(job.folder, name), policy, weights, tokenizer, dtype_of(job.recipe), adapter=adapter)


def promote(folder: Path, name: str) -> None:
    """Make a model that was exported under another name the stage's result; may be called again after a crash."""
    model = folder / MODEL
    aside = model.with_name(f".writing-{MODEL}-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(model.with_name(name), aside, copy_function=_link)
    shutil.rmtree(model, ignore_errors=True)
    aside.rename(model)
    sync_folder(model.parent)


def _link(source: str, target: str) -> None:
    """The same file under a second name; a copy where the file system knows no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def dtype_of(recipe: Recipe) -> torch.dtype:
    """Precision of engines and exported models."""
    return torch.bfloat16 if recipe.model.dtype == "bfloat16" else torch.float32


def checkpoints_of(job: Job) -> Path:
    """Folder of the stage's checkpoints."""
    return Path(job.folder, "checkpoints")
