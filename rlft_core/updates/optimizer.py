"""AdamW with its schedule, and one step of it with the gradient clipped over all ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from rlft_core.config.training import OptimizerConfig


def learning_rate(step: int, *, num_steps: int, config: OptimizerConfig) -> float:
    """Rate of optimiser step `step` (from 0) of `num_steps`.

    Rises linearly over `warmup_steps`, then falls to `final_share` of the peak along the chosen shape:

        warm-up   lr * (step + 1) / warmup_steps
        linear    lr * (1 - (1 - final_share) * x)                    x = share of the remaining steps that is done
        cosine    lr * (final_share + (1 - final_share) * (1 + cos(pi x)) / 2)
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, num_steps - 1 - config.warmup_steps)
    done = min(1.0, done)
    if config.schedule == "linear":
        return config.lr * (1.0 - (1.0 - config.final_share) * done)
    if config.schedule == "cosine":
        return config.lr * (config.final_share + (1.0 - config.final_share) * (1.0 + math.cos(math.pi * done)) / 2.0)
    return config.lr


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that are trained."""
    return torch.optim.AdamW(
        [p for p in module.parameters() if p.requires_grad],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


def optimizer_step(optimizer: torch.optim.AdamW, *, lr: float, max_grad_norm: float) -> float:
    """Clip, step, clear. Returns the gradient's global norm before clipping; a norm that is not finite skips the step."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = _full(torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm))
    if math.isfinite(norm):
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def trainable(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Names and tensors of the parameters that are trained."""
    return ((name, p) for name, p in module.named_parameters() if p.requires_grad)


def _full(norm: Tensor) -> float:
    from torch.distributed.tensor import DTensor

    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
