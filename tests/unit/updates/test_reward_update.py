"""A reward model's step against the plain computation, whatever the packing and the micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlft_core.config.model import FreezeConfig
from rlft_core.config.stages import RewardModelStage
from rlft_core.models.compute import Compute
from rlft_core.models.loading import trainable_reward_model
from rlft_core.models.reward_model import RewardModel
from rlft_core.updates.collective import Alone
from rlft_core.updates.optimizer import make_optimizer
from rlft_core.updates.reward import RewardState, reward_update, score_contrasts
from rlft_core.updates.reward_texts import TokenContrast


def contrasts(num_rows: int = 5, *, seed: int = 0) -> list[TokenContrast]:
    """Random rows with one to three negatives of different lengths."""
    rng = np.random.default_rng(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.integers(0, 300, size=rng.integers(low, high)).tolist())

    return [
        TokenContrast(
            ids(2, 9), ids(1, 7), tuple(ids(1, 7) for _ in range(1 + row % 3)), ("a", "b", "c")[: 1 + row % 3]
        )
        for row in range(num_rows)
    ]


def stage(**keys: Any) -> RewardModelStage:
    optimizer = {"lr": 1e-2, "warmup_steps": 0, "schedule": "constant", "max_grad_norm": 1e9}
    return RewardModelStage.model_validate({"optimizer": optimizer, **keys})


def new_state(folder: Path, config: RewardModelStage, *, packing: bool = True, budget: int = 512) -> RewardState:
    model = trainable_reward_model(folder, attention="dense", freeze=FreezeConfig(), gradient_checkpointing=False)
    compute = Compute(torch.device("cpu"), torch.float32, "dense", packing, budget, budget)
    return RewardState(model, make_optimizer(model, config.optimizer), compute, Alone())


def plain_score(model: RewardModel, prompt: Sequence[int], text: Sequence[int]) -> torch.Tensor:
    """What transformers' own class gives for the text alone."""
    model.inner.config.pad_token_id = None
    score: torch.Tensor = model.inner(input_ids=torch.tensor([[*prompt, *text]])).logits[0, 0]
    return score


def plain_loss(model: RewardModel, rows: Sequence[TokenContrast], config: RewardModelStage) -> torch.Tensor:
    """-log sigma over all pairs, written out, divided by their number."""
    losses = []
    for row in rows:
        good = plain_score(model, row.prompt, row.positive)
        for negative in row.negatives:
            bad = plain_score(model, row.prompt, negative)
            if config.loss == "bradley_terry":
                losses.append(torch.log1p(torch.exp(-(good - bad - config.margin))))
            else:
                losses.append((torch.log1p(torch.exp(-good)) + torch.log1p(torch.exp(bad))) / 2)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("packing, budget", [(True, 512), (True, 20), (False, 64), (False, 16)])
@pytest.mark.parametrize("keys", [{}, {"margin": 0.7}, {"loss": "binary"}], ids=["bt", "margin", "binary"])
def test_gradient_is_that_of_the_plain_loss(
    tiny_folder: Path, packing: bool, budget: int, keys: dict[str, Any]
) -> None:
    config, rows = stage(**keys), contrasts()
    state = new_state(tiny_folder, config, packing=packing, budget=budget)
    seen: dict[str, torch.Tensor] = {}
    state.optimizer.register_step_pre_hook(
        lambda *_: seen.update({n: p.grad.clone() for n, p in state.model.named_parameters() if p.grad is not None})
    )
    twin = new_state(tiny_folder, config).model
    expected = plain_loss(twin, rows, config)
    expected.backward()  # type: ignore[no-untyped-call]

    metrics = reward_update(state, rows, config)

    assert metrics["loss/mean"] == pytest.approx(expected.item(), abs=1e-6)
    gradients = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    assert set(seen) == set(gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(seen[name], gradient, rtol=0, atol=2e-6)
    assert max(float(g.abs().max()) for g in seen.values()) > 1e-2


def test_it_learns_to_tell_good_from_bad(tiny_folder: Path) -> None:
    config, rows = stage(num_steps=30), contrasts(8)
    state = new_state(tiny_folder, config)
    first = reward_update(state, rows, config)
    for _ in range(29):
        last = reward_update(state, rows, config)
    assert first["loss/mean"] > 0.6
    assert last["pairs/accuracy"] == 1.0
    assert last["loss/mean"] < 0.1
    assert state.step == 30


def test_scores_are_those_of_each_text_alone(tiny_folder: Path) -> None:
    rows = contrasts(4)
    state = new_state(tiny_folder, stage(), budget=24)
    found = score_contrasts(state, rows, stage())
    for row, scores in zip(rows, found, strict=True):
        expected = [plain_score(state.model, row.prompt, text).item() for text in (row.positive, *row.negatives)]
        assert scores == pytest.approx(expected, abs=1e-5)


class Half:
    """One of two ranks that are computed one after the other: sums come from what the other one gave."""

    num_ranks = 2

    def __init__(self, rank: int, other: dict[int, torch.Tensor] | None = None) -> None:
        self.rank = rank
        self.calls: dict[int, torch.Tensor] = {}
        self._other = other

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self.calls[len(self.calls)] = values.clone()
        return values.clone() if self._other is None else values + self._other[len(self.calls) - 1]

    def max(self, values: torch.Tensor) -> torch.Tensor:
        return values.clone()

    def union(self, names: Sequence[str]) -> list[str]:
        return sorted(names)

    def barrier(self) -> None:
        """Nobody waits."""


def test_two_ranks_score_every_contrast_once(tiny_folder: Path) -> None:
    rows = contrasts(5)
    state = new_state(tiny_folder, stage())
    expected = score_contrasts(state, rows, stage())
    first = Half(0)
    state.collective = first
    score_contrasts(state, rows, stage())
    state.collective = Half(1, first.calls)
    found = score_contrasts(state, rows, stage())
    for a, b in zip(found, expected, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
