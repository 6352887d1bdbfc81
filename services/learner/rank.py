"""What every rank of a learner does first: its device, its threads, its process group, its model, sharded if need be."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import ray.train
import torch
from torch import nn

from rlft_core.config.recipe import Recipe, TrainingStage
from rlft_core.errors import UserError
from rlft_core.models.attention import attention_kind
from rlft_core.models.compute import Compute
from rlft_core.models.loading import trainable_policy
from rlft_core.models.packable import why_not_packable
from rlft_core.models.policy import Policy
from rlft_core.models.reward_model import RewardModel
from rlft_core.updates.collective import Alone, Collective, Ranks
from services.cores import whole_cores
from services.learner.mailbox import Standing


def prepare_rank(recipe: Recipe, stage: TrainingStage) -> tuple[torch.device, Collective]:
    """Set threads and device; join the process group."""
    learner = stage.learner
    threads = learner.threads_per_rank or max(1, whole_cores() // learner.num_ranks)
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    device = ray.train.torch.get_device()
    if not isinstance(device, torch.device):
        raise TypeError(f"one device a rank is needed, got {device}")
    collective: Collective = Alone() if learner.num_ranks == 1 else Ranks(device)
    return device, collective


def load_policy(recipe: Recipe, stage: TrainingStage, start: str, device: torch.device) -> Policy:
    """The model to tune on this rank's device, sharded when there are several ranks."""
    policy = trainable_policy(
        start,
        attention=attention_kind(device),
        freeze=stage.learner.freeze,
        lora=recipe.model.lora,
        gradient_checkpointing=stage.learner.gradient_checkpointing,
        trust_remote_code=recipe.model.trust_remote_code,
        seed=recipe.seed,
    )
    policy.to(device)
    return policy


def choose_compute(
    recipe: Recipe, stage: TrainingStage, model: Policy | RewardModel, device: torch.device
) -> tuple[Compute, tuple[str, ...]]:
    """How rows are computed; falls back to unpacked rows, with a note, for a model that cannot take packed ones."""
    attention = attention_kind(device)
    notes: tuple[str, ...] = ()
    packing = stage.learner.packing
    if packing:
        reason = why_not_packable(model, attention=attention, max_row_tokens=stage.learner.max_row_tokens)
        if reason is not None:
            packing, notes = False, (f"packing is off for this model: {reason}; rows are padded instead",)
    dtype = torch.bfloat16 if recipe.model.dtype == "bfloat16" else torch.float32
    learner = stage.learner
    return Compute(device, dtype, attention, packing, learner.max_row_tokens, learner.max_batch_tokens), notes


def shard(module: nn.Module, collective: Collective, device: torch.device, layers: Sequence[nn.Module]) -> None:
    """Shard a module's weights over the ranks (FSDP2), layer by layer; nothing to do for one rank."""
    if collective.num_ranks == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (collective.num_ranks,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)


def layers_of(model: Policy | RewardModel) -> Sequence[nn.Module]:
    """The transformer layers of a model."""
    backbone: Any = model.backbone
    return list(backbone.layers)


def standing(step: int, collective: Collective, notes: Sequence[str]) -> Standing:
    """Where this learner stands, with the process ids of all ranks. A collective."""
    pids = torch.zeros(collective.num_ranks, dtype=torch.int64)
    pids[collective.rank] = os.getpid()
    return Standing(step, collective.num_ranks, tuple(collective.sum(pids).tolist()), tuple(notes))


@contextmanager
def told_to(mailbox: Any) -> Iterator[None]:
    """A user's error is told to the coordinator: starting the ranks again would only repeat it."""
    try:
        yield
    except UserError as error:
        ray.get(mailbox.fail.remote(error))
        raise
