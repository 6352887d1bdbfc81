"""The learning rate's shapes as literal numbers, and what one optimiser step does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rlft_core.config.training import OptimizerConfig
from rlft_core.updates.optimizer import learning_rate, make_optimizer, optimizer_step, trainable


def rates(num_steps: int, **keys: object) -> list[float]:
    config = OptimizerConfig.model_validate({"lr": 1.0, **keys})
    return [learning_rate(step, num_steps=num_steps, config=config) for step in range(num_steps + 1)]


def test_learning_rates() -> None:
    assert rates(6, warmup_steps=2, schedule="linear", final_share=0.1) == pytest.approx(
        [0.5, 1.0, 1.0, 0.7, 0.4, 0.1, 0.1]
    )
    assert rates(5, warmup_steps=0, schedule="linear", final_share=0.0) == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0])
    assert rates(5, warmup_steps=0, schedule="cosine", final_share=0.2) == pytest.approx(
        [1.0, 0.2 + 0.4 * (1 + math.sqrt(0.5)), 0.6, 0.2 + 0.4 * (1 - math.sqrt(0.5)), 0.2, 0.2]
    )
    assert rates(4, warmup_steps=3, schedule="constant") == pytest.approx([1 / 3, 2 / 3, 1, 1, 1])
    assert rates(1, warmup_steps=0, schedule="linear") == [1.0, pytest.approx(0.1)]
    assert rates(2, warmup_steps=5, schedule="linear") == pytest.approx([0.2, 0.4, 0.6])


def linear(gradient: list[float]) -> nn.Linear:
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, -1.0]]))
    module.weight.grad = torch.tensor([gradient])
    return module


def test_a_step_clips_the_gradient_and_clears_it() -> None:
    module = linear([3.0, 4.0])
    config = OptimizerConfig(lr=5.0, betas=(0.0, 0.0), eps=1.0, weight_decay=0.5)
    optimizer = make_optimizer(module, config)
    norm = optimizer_step(optimizer, lr=0.1, max_grad_norm=1.0)
    assert norm == pytest.approx(5.0)  # before clipping
    # AdamW without memory: w (1 - lr * decay) - lr * g / (|g| + eps), g clipped to (0.6, 0.8)
    expected = [1.0 * 0.95 - 0.1 * 0.6 / 1.6, -1.0 * 0.95 - 0.1 * 0.8 / 1.8]
    assert module.weight.detach()[0].tolist() == pytest.approx(expected, rel=1e-5)
    assert module.weight.grad is None


def test_a_small_gradient_is_left_alone() -> None:
    module = linear([0.3, 0.4])
    optimizer = make_optimizer(module, OptimizerConfig(betas=(0.0, 0.0), eps=1.0))
    assert optimizer_step(optimizer, lr=1.0, max_grad_norm=1.0) == pytest.approx(0.5)
    assert module.weight.detach()[0].tolist() == pytest.approx([1 - 0.3 / 1.3, -1 - 0.4 / 1.4], rel=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float) -> None:
    module = linear([bad, 1.0])
    optimizer = make_optimizer(module, OptimizerConfig())
    assert not math.isfinite(optimizer_step(optimizer, lr=1.0, max_grad_norm=1.0))
    assert module.weight.detach()[0].tolist() == [1.0, -1.0]
    assert module.weight.grad is None
    assert not optimizer.state


def test_frozen_parameters_are_not_in_the_optimiser() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    module[0].requires_grad_(False)
    optimizer = make_optimizer(module, OptimizerConfig())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    assert [name for name, _ in trainable(module)] == ["1.weight", "1.bias"]
