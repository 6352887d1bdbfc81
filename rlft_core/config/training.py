"""How weights are updated: optimiser, schedule, memory, checkpoints, and the learner's place in the cluster."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rlft_core.config.base import Strict
from rlft_core.config.model import FreezeConfig


class OptimizerConfig(Strict):
    """AdamW with a linear warm-up and a decay (Loshchilov and Hutter 2019)."""

    lr: PositiveFloat = 2e-5
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of the two moments."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""
    warmup_steps: NonNegativeInt = 3
    """Steps over which the rate rises from 0."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Shape of the decay after the warm-up."""
    final_share: float = Field(default=0.1, ge=0.0, le=1.0)
    """The rate at the last step, as a share of the peak."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this global norm."""


class LearnerConfig(Strict):
    """The learner's processes and how much each may hold at once."""

    num_ranks: PositiveInt = 1
    """Processes that share each update. From two on the model is sharded (FSDP2)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes GPUs when the cluster has enough for all ranks."""
    cpus_per_rank: PositiveInt = 1
    """CPUs reserved for one rank."""
    threads_per_rank: NonNegativeInt = 0
    """Compute threads of one rank; 0 shares the machine's cores among the ranks."""
    max_row_tokens: PositiveInt = 512
    """Token budget of one packed row on a GPU. On a CPU rows may be as long as the larger of this and `max_batch_tokens`."""
    max_batch_tokens: PositiveInt = 2048
    """Rows go through the model together up to this many positions: bounds the learner's activation memory."""
    packing: bool = True
    """Compute a group's prompt once (shared-prefix packing). Off: one completion a row, padded."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    freeze: FreezeConfig = FreezeConfig()
    """Weights that stay as they are."""
    max_restarts: NonNegativeInt = 2
    """How often a crashed learner is started again from its last checkpoint."""
    step_deadline_s: PositiveFloat = 1800.0
    """Longest time one update may take before the run stops and says so."""


class CheckpointConfig(Strict):
    """When the learner's whole state is saved."""

    every: PositiveInt = 10
    """Save after this many steps. What the last step leaves is the stage's model."""
    keep: PositiveInt = 2
    """Newest checkpoints to keep."""
