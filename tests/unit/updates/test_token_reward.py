"""Token-level reward models: losses against loops in plain Python and literal numbers, and the step against transformers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlft_core.config.stages import RewardModelStage
from rlft_core.models.reward_model import RewardModel
from rlft_core.updates.reward import reward_update, score_contrasts, token_entries
from rlft_core.updates.reward_objective import pair_losses, text_scores
from rlft_core.updates.reward_texts import TokenContrast, texts_of
from tests.unit.updates.test_reward_update import new_state, stage

LOSSES = ("bradley_terry", "binary", "edited", "labels")


def token_stage(**keys: Any) -> RewardModelStage:
    return stage(level="token", **keys)


def contrasts(num_rows: int = 4, *, seed: int = 0) -> list[TokenContrast]:
    """Random rows with one to three worse texts, some tokens of each pair marked; one side may have no mark."""
    rng = np.random.default_rng(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.integers(0, 300, size=rng.integers(low, high)).tolist())

    def some(text: Sequence[int]) -> tuple[int, ...]:
        return tuple(np.flatnonzero(rng.random(len(text)) < 0.4).tolist())

    rows = []
    for row in range(num_rows):
        good, bad = ids(2, 7), [ids(1, 7) for _ in range(1 + row % 3)]
        changed = tuple((some(good), () if row == 0 else some(text)) for text in bad)
        rows.append(TokenContrast(ids(2, 9), good, tuple(bad), ("a", "b", "c")[: len(bad)], changed))
    return rows


# ---------------------------------------------------------------- in plain Python


def log_sigma(x: float) -> float:
    return -math.log1p(math.exp(-x))


def plain_loss(good: Sequence[float], bad: Sequence[float], changed: Any, config: RewardModelStage) -> float:
    """The loss of one pair from the values of its tokens."""
    total = 0.0
    for values, marks, label in ((good, changed[0], 1.0), (bad, changed[1], 0.0)):
        for t, value in enumerate(values):
            target = label if t in marks else 0.5
            total -= target * log_sigma(value) + (1 - target) * log_sigma(-value)
    labels = total / (len(good) + len(bad))
    if config.loss == "labels":
        return labels
    added = config.label_weight * labels
    if config.loss == "edited":
        sides = [[values[t] for t in marks] for values, marks in zip((good, bad), changed, strict=True)]
    else:
        sides = [list(good), list(bad)]
    a, b = (sum(side) / len(side) if side else 0.0 for side in sides)
    if config.loss == "binary":
        return -(log_sigma(a) + log_sigma(-b)) / 2 + added
    return -log_sigma(a - b - config.margin) + added


def on_axis(row: TokenContrast, values: Sequence[Sequence[float]]) -> torch.Tensor:
    """Values of each text on the flat axis; the entry before each text holds nonsense that nobody may read."""
    return torch.tensor([v for text in values for v in (999.0, *text)], dtype=torch.float64)


@pytest.mark.parametrize(
    "keys",
    [
        *({"loss": loss} for loss in LOSSES),
        {"loss": "bradley_terry", "margin": 0.3},
        {"loss": "edited", "margin": 0.3},
        {"loss": "bradley_terry", "label_weight": 0.7},
        {"loss": "binary", "label_weight": 2.0},
    ],
)
def test_losses_are_those_of_plain_python(keys: dict[str, Any]) -> None:
    config, rng = token_stage(**keys), np.random.default_rng(1)
    for row in contrasts(6):
        values = [rng.normal(size=len(text)).tolist() for text in (row.positive, *row.negatives)]
        found = pair_losses(on_axis(row, values), texts_of([row]), config)
        expected = [plain_loss(values[0], bad, row.changed[k], config) for k, bad in enumerate(values[1:])]
        assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_losses_by_hand() -> None:
    row = TokenContrast((7,), (1, 2), ((1, 3, 4),), ("a",), (((1,), (1, 2)),))
    texts = texts_of([row])
    values = on_axis(row, [[0.5, 1.5], [0.5, -1.0, 0.2]])
    mean = pair_losses(values, texts, token_stage())
    assert text_scores(values, texts, token_stage()).tolist() == pytest.approx([1.0, -0.1], abs=1e-12)
    assert mean.item() == pytest.approx(0.28733532511542, abs=1e-10)  # -log sigma(1.1)
    edited = pair_losses(values, texts, token_stage(loss="edited"))
    assert edited.item() == pytest.approx(0.13938675828296, abs=1e-10)  # -log sigma(1.5 + .4)
    labels = pair_losses(values, texts, token_stage(loss="labels"))
    assert labels.item() == pytest.approx(0.55219356, abs=1e-7)
    both = pair_losses(values, texts, token_stage(label_weight=2.0))
    assert both.item() == pytest.approx(0.28733532511542 + 2 * 0.55219356, abs=2e-7)


def test_with_one_token_each_the_mean_loss_is_bradley_terry() -> None:
    row = TokenContrast((7,), (1,), ((2,),), ("a",))
    values = on_axis(row, [[0.4], [-0.3]])
    sequence = pair_losses(values, texts_of([row]), stage())
    assert pair_losses(values, texts_of([row]), token_stage()).item() == sequence.item()
    assert sequence.item() == pytest.approx(-log_sigma(0.7), abs=1e-12)


# ---------------------------------------------------------------- through the model


def plain_values(model: RewardModel, prompt: Sequence[int], text: Sequence[int]) -> torch.Tensor:
    """[T] what transformers' backbone and the head give at each token of a text alone."""
    hidden = model.backbone(input_ids=torch.tensor([[*prompt, *text]])).last_hidden_state[0, len(prompt) :]
    values: torch.Tensor = model.head(hidden)[:, 0]
    return values


@pytest.mark.parametrize("packing, budget", [(True, 512), (True, 20), (False, 16)])
@pytest.mark.parametrize("loss, label_weight", [*((loss, 0.0) for loss in LOSSES), ("bradley_terry", 1.0)])
def test_gradient_is_that_of_the_plain_loss(
    tiny_folder: Path, packing: bool, budget: int, loss: str, label_weight: float
) -> None:
    config, rows = token_stage(loss=loss, label_weight=label_weight), contrasts()
    state = new_state(tiny_folder, config, packing=packing, budget=budget)
    seen: dict[str, torch.Tensor] = {}
    state.optimizer.register_step_pre_hook(
        lambda *_: seen.update({n: p.grad.clone() for n, p in state.model.named_parameters() if p.grad is not None})
    )
    twin = new_state(tiny_folder, config).model
    losses = []
    for row in rows:
        axes = [
            torch.cat([torch.zeros(1), plain_values(twin, row.prompt, text)]) for text in (row.positive, *row.negatives)
        ]
        losses.append(pair_losses(torch.cat(axes), texts_of([row]), config))
    expected = torch.cat(losses).mean()
    expected.backward()  # type: ignore[no-untyped-call]

    metrics = reward_update(state, rows, config)

    assert metrics["loss/mean"] == pytest.approx(expected.item(), abs=1e-6)
    gradients = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    assert set(seen) == set(gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(seen[name], gradient, rtol=0, atol=2e-6)


def test_values_are_those_of_each_text_alone(tiny_folder: Path) -> None:
    rows = contrasts(4)
    state = new_state(tiny_folder, token_stage(), budget=24)
    found = token_entries(state, rows)
    scores = score_contrasts(state, rows, token_stage())
    for row, texts, means in zip(rows, found, scores, strict=True):
        for text, values, mean in zip((row.positive, *row.negatives), texts, means, strict=True):
            expected = plain_values(state.model, row.prompt, text).detach()
            assert values[1:].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
            assert mean == pytest.approx(float(expected.mean()), abs=1e-5)


@pytest.mark.parametrize("loss", ["bradley_terry", "edited", "labels"])
def test_it_finds_the_tokens_that_are_wrong(tiny_folder: Path, loss: str) -> None:
    """One token is always wrong, wherever it stands: after training it has the lowest value of its text."""
    rng = np.random.default_rng(0)
    wrong, rows = 299, []
    for _ in range(24):
        good = rng.integers(0, 250, size=5).tolist()
        at = int(rng.integers(0, 5))
        bad = [*good[:at], wrong, *good[at + 1 :]]
        rows.append(TokenContrast((1, 2), tuple(good), (tuple(bad),), ("a",), (((at,), (at,)),)))
    config = token_stage(loss=loss, num_steps=80)
    state = new_state(tiny_folder, config)
    for _ in range(80):
        metrics = reward_update(state, rows[:16], config)
    assert metrics["pairs/accuracy"] == 1.0
    found = token_entries(state, rows[16:])
    lowest = [int(np.argmin(texts[1][1:])) for texts in found]
    assert lowest == [row.negatives[0].index(wrong) for row in rows[16:]]
