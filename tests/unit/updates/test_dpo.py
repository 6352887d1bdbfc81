"""A DPO step against the plain computation, whatever the packing, the micro-batches and the ranks; adapters too."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from rlft_core.config.model import LoraConfig
from rlft_core.config.stages import DpoStage
from rlft_core.models.compute import Compute
from rlft_core.models.policy import Policy
from rlft_core.updates.collective import Alone
from rlft_core.updates.dpo import DpoState, dpo_update, margins_of
from rlft_core.updates.optimizer import make_optimizer
from rlft_core.updates.reward_texts import TokenContrast
from tests.unit.updates.test_reward_update import contrasts

NewPolicy = Callable[..., Policy]


def stage(**keys: Any) -> DpoStage:
    optimizer = {"lr": 1e-2, "warmup_steps": 0, "schedule": "constant", "max_grad_norm": 1e9}
    pairs = {"source": "file", "train": "pairs.jsonl"}
    return DpoStage.model_validate({"optimizer": optimizer, "pairs": pairs, **keys})


def moved(policy: Policy) -> Policy:
    """A copy whose weights are others: the policy some steps later."""
    other = copy.deepcopy(policy)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return other


def new_state(policy: Policy, reference: Policy | None, config: DpoStage, *, packing: bool, budget: int) -> DpoState:
    if reference is not None:
        reference.requires_grad_(False)
    compute = Compute(torch.device("cpu"), torch.float32, "dense", packing, budget, budget)
    return DpoState(policy, make_optimizer(policy, config.optimizer), reference, compute, Alone())


def plain_ratio(policy: Policy, reference: Policy, prompt: Sequence[int], text: Sequence[int]) -> torch.Tensor:
    """log pi - log pi_ref of a text alone, by transformers' own forward pass."""

    def of(model: Policy) -> torch.Tensor:
        logits = model.lm(torch.tensor([[*prompt, *text]])).logits[0, len(prompt) - 1 : -1]
        chosen = torch.log_softmax(logits.double(), dim=-1)[range(len(text)), list(text)]
        return chosen.sum()

    with torch.no_grad():
        start = of(reference)
    return of(policy) - start


def plain_loss(margin: torch.Tensor, config: DpoStage) -> torch.Tensor:
    how = config.preference
    if how.loss == "ipo":
        return (margin - 1 / (2 * how.beta)) ** 2
    if how.loss == "hinge":
        return torch.clamp(1 - how.beta * margin, min=0)
    e = how.label_smoothing
    right, wrong = (torch.log1p(torch.exp(-sign * how.beta * margin)) for sign in (1, -1))
    return (1 - e) * right + e * wrong


@pytest.mark.parametrize("packing, budget", [(True, 512), (True, 20), (False, 16)])
@pytest.mark.parametrize(
    "how", [{}, {"label_smoothing": 0.2}, {"loss": "ipo"}, {"loss": "hinge"}], ids=["dpo", "smooth", "ipo", "hinge"]
)
def test_gradient_is_that_of_the_plain_loss(
    new_policy: NewPolicy, packing: bool, budget: int, how: dict[str, Any]
) -> None:
    config, rows, reference = stage(preference={"beta": 0.3, **how}), contrasts(), new_policy()
    policy = moved(reference)
    state = new_state(policy, reference, config, packing=packing, budget=budget)
    seen: dict[str, torch.Tensor] = {}
    state.optimizer.register_step_pre_hook(
        lambda *_: seen.update({n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None})
    )
    twin = copy.deepcopy(policy)
    losses, margins = [], []
    for row in rows:
        good = plain_ratio(twin, reference, row.prompt, row.positive)
        for negative in row.negatives:
            margins.append(good - plain_ratio(twin, reference, row.prompt, negative))
            losses.append(plain_loss(margins[-1], config))
    expected = torch.stack(losses).mean()
    expected.backward()  # type: ignore[no-untyped-call]

    metrics = dpo_update(state, rows, config)

    assert metrics["loss/mean"] == pytest.approx(expected.item(), abs=1e-5)
    assert metrics["pairs/gap"] == pytest.approx(torch.stack(margins).mean().item(), abs=1e-4)
    assert metrics["pairs/accuracy"] == pytest.approx(sum(m.item() > 0 for m in margins) / len(margins))
    gradients = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    assert set(seen) == set(gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(seen[name], gradient, rtol=0, atol=1e-5)
    assert max(float(g.abs().max()) for g in seen.values()) > 1e-3


def test_at_the_start_the_loss_is_that_of_a_coin(new_policy: NewPolicy) -> None:
    policy = new_policy()
    state = new_state(policy, copy.deepcopy(policy), stage(), packing=True, budget=512)
    metrics = dpo_update(state, contrasts(), stage())
    assert metrics["loss/mean"] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics["pairs/gap"] == pytest.approx(0.0, abs=1e-6)


def test_it_learns_to_prefer(new_policy: NewPolicy) -> None:
    policy, rows = new_policy(), contrasts(8)
    config = stage(num_steps=20, optimizer={"lr": 1e-3, "warmup_steps": 0, "schedule": "constant"})
    state = new_state(policy, copy.deepcopy(policy), config, packing=True, budget=512)
    for _ in range(20):
        metrics = dpo_update(state, rows, config)
    assert metrics["pairs/accuracy"] == 1.0
    assert metrics["loss/mean"] < 0.3
    assert all(margin > 0 for margin in margins_of(state, rows))


def test_an_adapter_that_is_switched_off_is_the_reference(new_policy: NewPolicy) -> None:
    """With adapters no second model is held: the result is that of training them against a copy of the base."""
    rows = contrasts(4)
    config = stage()
    adapted = new_policy(LoraConfig(rank=4))
    state = new_state(adapted, None, config, packing=True, budget=512)
    first = dpo_update(state, rows, config)
    assert first["loss/mean"] == pytest.approx(math.log(2), abs=1e-6)
    second = dpo_update(state, rows, config)
    assert second["loss/mean"] < first["loss/mean"]
    base = new_policy()
    margins = margins_of(state, rows)
    expected = [
        (plain_ratio(adapted, base, row.prompt, row.positive) - plain_ratio(adapted, base, row.prompt, negative)).item()
        for row in rows
        for negative in row.negatives
    ]
    assert margins == pytest.approx(expected, abs=1e-4)


def test_a_contrast_of_several_texts_is_several_pairs(new_policy: NewPolicy) -> None:
    policy = new_policy()
    state = new_state(moved(policy), policy, stage(), packing=True, budget=512)
    (row,) = (c for c in contrasts(3) if len(c.negatives) == 3)
    apart = [TokenContrast(row.prompt, row.positive, (text,), ("a",)) for text in row.negatives]
    assert margins_of(state, [row]) == pytest.approx(margins_of(state, apart), abs=1e-5)
