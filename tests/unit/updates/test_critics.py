"""Critics: the closed-form head against numpy's least squares, and both against returns that can be learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from rlft_core.config.online import PpoStage
from rlft_core.models.policy import Policy
from rlft_core.types import Batch, ScoredGroup
from rlft_core.updates.collective import Alone
from rlft_core.updates.critics import RidgeHead
from rlft_core.updates.ppo import PpoState, ppo_update


def normalised(hidden: np.ndarray) -> np.ndarray:
    centred = hidden - hidden.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt(hidden.var(axis=1, keepdims=True) + 1e-5)
    return np.concatenate([scaled, np.ones((len(hidden), 1))], axis=1)


def least_squares(
    steps: Sequence[tuple[np.ndarray, np.ndarray]], *, ridge: float, memory: float, width: int
) -> np.ndarray:
    """Rows of age n weigh memory^n; the penalty is rows of sqrt(ridge) that ask for 0."""
    rows, targets = [], []
    for age, (hidden, returns) in enumerate(reversed(steps)):
        weight = math.sqrt(memory**age)
        rows.append(weight * normalised(hidden))
        targets.append(weight * returns)
    penalty = np.diag([math.sqrt(ridge)] * width + [1e-3])
    design = np.concatenate([*rows, penalty])
    return np.linalg.lstsq(design, np.concatenate([*targets, np.zeros(width + 1)]), rcond=None)[0]


def test_ridge_head_is_weighted_least_squares() -> None:
    rng = np.random.default_rng(0)
    width = 6
    head = RidgeHead(width, ridge=[3.0], memory=0.8)
    steps = [(rng.normal(size=(n, width)), rng.normal(size=n)) for n in (9, 4, 7)]
    assert head.values(torch.tensor(steps[0][0])).tolist() == [0.0] * 9
    for hidden, returns in steps:
        head.fit(torch.tensor(hidden), torch.tensor(returns), Alone())
    expected = least_squares(steps, ridge=3.0, memory=0.8, width=width)
    assert head.weight.tolist() == pytest.approx(expected.tolist(), rel=1e-8, abs=1e-10)
    fresh = rng.normal(size=(5, width))
    found = head.values(torch.tensor(fresh))
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx((normalised(fresh) @ expected).tolist(), abs=1e-6)


@pytest.mark.parametrize("noise, chosen", [(0.0, 0), (5.0, 2)])
def test_the_strength_in_use_is_the_one_that_predicted_best(noise: float, chosen: int) -> None:
    """Clean returns want hardly any regularisation, noise wants all of it. Errors fade by .7 a step."""
    rng = np.random.default_rng(2)
    width, ridges, memory = 5, (0.01, 3.0, 1e4), 0.9
    truth = rng.normal(size=width + 1)
    head = RidgeHead(width, ridge=ridges[::-1], memory=memory)
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    errors = [0.0, 0.0, 0.0]
    for _ in range(6):
        hidden = rng.normal(size=(8, width))
        returns = normalised(hidden) @ truth if not noise else rng.normal(scale=noise, size=8)
        for k, ridge in enumerate(ridges):
            known = least_squares(steps, ridge=ridge, memory=memory, width=width) if steps else np.zeros(width + 1)
            errors[k] = 0.7 * errors[k] + float(((normalised(hidden) @ known - returns) ** 2).sum())
        head.fit(torch.tensor(hidden), torch.tensor(returns), Alone())
        steps.append((hidden, returns))
        if len(steps) == 1:  # all have said 0 so far: the most cautious is used
            cautious = least_squares(steps, ridge=1e4, memory=memory, width=width)
            assert head.weight.tolist() == pytest.approx(cautious.tolist(), rel=1e-7, abs=1e-9)
    assert head.errors.tolist() == pytest.approx(errors, rel=1e-7)
    assert int(np.argmin(errors)) == chosen
    expected = least_squares(steps, ridge=ridges[chosen], memory=memory, width=width)
    assert head.weight.tolist() == pytest.approx(expected.tolist(), rel=1e-7, abs=1e-9)


def test_ridge_head_goes_on_from_its_state() -> None:
    rng = np.random.default_rng(1)
    batches = [(torch.tensor(rng.normal(size=(8, 4))), torch.tensor(rng.normal(size=8))) for _ in range(3)]
    whole, first, second = (RidgeHead(4, ridge=(1.0, 50.0), memory=0.9) for _ in range(3))
    for hidden, returns in batches:
        whole.fit(hidden, returns, Alone())
    for hidden, returns in batches[:2]:
        first.fit(hidden, returns, Alone())
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    assert torch.equal(second.values(batches[2][0]), first.values(batches[2][0]))
    second.fit(*batches[2], Alone())
    assert torch.equal(second.weights, whole.weights)
    assert torch.equal(second.errors, whole.errors)


def learnable(groups: Sequence[ScoredGroup]) -> list[ScoredGroup]:
    """The reward depends on the prompt alone: every second prompt pays 2, the others 1."""
    made = []
    for index, g in enumerate(groups):
        for score in g.scores:
            score.per_token[-1] = 1.0 + index % 2
        made.append(g)
    return made


@pytest.mark.parametrize(
    "critic, wanted",
    [
        ({"type": "head", "ridge": [0.1]}, 0.95),
        ({"type": "model", "epochs": 2, "clip": None, "optimizer": {"lr": 1e-2, "warmup_steps": 0}}, 0.6),
    ],
)
def test_explained_variance_rises_on_returns_that_can_be_learned(
    critic: dict[str, object],
    wanted: float,
    new_policy: Callable[..., Policy],
    make_groups: Callable[..., list[ScoredGroup]],
    make_stage: Callable[..., PpoStage],
    make_state: Callable[..., PpoState],
) -> None:
    policy = new_policy()
    groups = learnable(make_groups(4, 2, lm=policy.lm))
    advantage = {"type": "gae", "lam": 1.0, "critic": critic}
    stage = make_stage(advantage=advantage, num_steps=8, optimizer={"lr": 1e-9})
    state = make_state(stage, policy, max_row_tokens=256)
    rows = [ppo_update(state, Batch(tuple(groups), step), stage) for step in range(8)]
    found = [row["critic/explained_variance"] for row in rows]
    assert found[0] == pytest.approx(0.0, abs=1e-6)  # it has seen nothing yet and says 0 everywhere
    assert rows[0]["critic/value"] == 0.0
    assert found[-1] > wanted
    assert 1.2 < rows[-1]["critic/value"] < 1.8  # the mean return is near 1.5
    if critic["type"] == "model":
        # Mean over the tokens and both passes of half a squared error; before learning the value is 0.
        assert rows[0]["critic/loss"] > 5 * rows[-1]["critic/loss"]


def test_only_the_critic_learns_during_its_warm_up(
    new_policy: Callable[..., Policy],
    make_groups: Callable[..., list[ScoredGroup]],
    make_stage: Callable[..., PpoStage],
    make_state: Callable[..., PpoState],
) -> None:
    policy = new_policy()
    groups = make_groups(2, lm=policy.lm)
    critic = {"type": "model", "warmup_steps": 1, "optimizer": {"lr": 1e-3, "warmup_steps": 0}}
    stage = make_stage(advantage={"type": "gae", "critic": critic})
    state = make_state(stage, policy)
    before = [p.detach().clone() for p in policy.parameters()]
    assert state.critic is not None
    ppo_update(state, Batch(tuple(groups), 0), stage)
    assert all(torch.equal(p, q) for p, q in zip(policy.parameters(), before, strict=True))
    ppo_update(state, Batch(tuple(groups), 1), stage)
    assert not all(torch.equal(p, q) for p, q in zip(policy.parameters(), before, strict=True))
