"""Advantages against plain Python loops and numbers worked by hand."""

from __future__ import annotations

import random
import statistics
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlft_core.advantages import (
    centre_by_group,
    explained_variance,
    explained_variance_of,
    gae,
    grpo,
    place_at_last,
    reinforce_pp_baseline,
    rloo,
    spread,
)
from rlft_core.masking import moments

SCORES = st.floats(-10.0, 10.0, allow_nan=False, width=32)


def f64(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def loop_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """The definition for one episode: a discounted sum of the temporal differences that follow."""
    horizon = len(rewards)
    bootstrapped = [*values, 0.0]
    deltas = [rewards[t] + gamma * bootstrapped[t + 1] - values[t] for t in range(horizon)]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, horizon)) for t in range(horizon)]


def cut(values: list[float], sizes: list[int]) -> list[list[float]]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [values[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def test_gae_by_hand() -> None:
    # delta = .9*.4 - .5, .9*.2 - .4, 1 - .2;  gamma * lam = .45
    advantages, returns = gae(f64([0.0, 0.0, 1.0]), f64([0.5, 0.4, 0.2]), [3], gamma=0.9, lam=0.5)
    assert advantages.tolist() == pytest.approx([-0.077, 0.14, 0.8], rel=1e-12)
    assert returns.tolist() == pytest.approx([0.423, 0.54, 1.0], rel=1e-12)


def test_gae_without_discount_is_the_reward_to_go_minus_the_value() -> None:
    advantages, returns = gae(f64([1.0, 2.0, 3.0, 10.0]), f64([9.0, 9.0, 9.0, 1.0]), [3, 1], gamma=1.0, lam=1.0)
    assert advantages.tolist() == [-3.0, -4.0, -6.0, 9.0]
    assert returns.tolist() == [6.0, 5.0, 3.0, 10.0]


@pytest.mark.parametrize("gamma, lam", [(1.0, 1.0), (0.99, 0.95), (0.9, 0.0), (0.0, 0.5)])
def test_gae_equals_the_definition_on_ragged_sequences(gamma: float, lam: float) -> None:
    rng = random.Random(3)
    lengths = [rng.randint(1, 12) for _ in range(20)]
    rewards = [rng.gauss(0, 1) for _ in range(sum(lengths))]
    values = [rng.gauss(0, 1) for _ in range(sum(lengths))]
    expected = [
        a for r, v in zip(cut(rewards, lengths), cut(values, lengths), strict=True) for a in loop_gae(r, v, gamma, lam)
    ]
    advantages, returns = gae(f64(rewards), f64(values), torch.tensor(lengths), gamma=gamma, lam=lam)
    assert advantages.tolist() == pytest.approx(expected, rel=1e-11, abs=1e-12)
    assert returns.tolist() == pytest.approx([a + v for a, v in zip(expected, values, strict=True)], abs=1e-12)


def test_gae_is_detached_and_leaves_its_arguments_alone() -> None:
    rewards, values = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    advantages, returns = gae(rewards, values, [2, 1], gamma=1.0, lam=1.0)
    assert not advantages.requires_grad
    assert not returns.requires_grad
    assert rewards.tolist() == values.tolist() == [1.0, 1.0, 1.0]


def test_gae_is_fast_enough_for_a_large_step() -> None:
    lengths = [39] * 512
    rewards = torch.randn(39 * 512)
    gae(rewards, rewards, lengths, gamma=1.0, lam=0.95)
    start = time.process_time()
    gae(rewards, rewards, lengths, gamma=1.0, lam=0.95)
    assert time.process_time() - start < 0.5  # a loop over tokens takes seconds; this takes milliseconds


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to 4"):
        gae(torch.ones(5), torch.ones(5), [2, 2], gamma=1.0, lam=1.0)
    with pytest.raises(ValueError, match="one shape"):
        gae(torch.ones(5), torch.ones(4), [4], gamma=1.0, lam=1.0)
    with pytest.raises(ValueError, match="at least 1"):
        place_at_last(torch.ones(2), [3, 0])
    with pytest.raises(ValueError, match="add up to 2"):
        rloo(torch.ones(3), [2])
    with pytest.raises(ValueError, match="2 sequences"):
        spread(torch.ones(3), [1, 1])


def test_group_relative_by_hand() -> None:
    scores, sizes = f64([1.0, 2.0, 6.0, 5.0, 0.0, 4.0]), [3, 1, 2]
    assert rloo(scores, sizes).tolist() == pytest.approx([-3.0, -1.5, 4.5, 0.0, -4.0, 4.0], rel=1e-12)
    assert grpo(scores, sizes, normalize_std=False).tolist() == [-2.0, -1.0, 3.0, 0.0, -2.0, 2.0]
    # std of (1, 2, 6) = sqrt(7), of (0, 4) = sqrt(8)
    expected = [-2 / 7**0.5, -1 / 7**0.5, 3 / 7**0.5, 0.0, -2 / 8**0.5, 2 / 8**0.5]
    assert grpo(scores, sizes, eps=0.0).tolist()[:3] == pytest.approx(expected[:3], rel=1e-12)
    assert grpo(scores, sizes).tolist() == pytest.approx(expected, rel=1e-6)
    # centred -2 -1 3 0 -2 2: mean 0, sum of squares 22, variance 22 / 5
    scale = (22 / 5) ** 0.5
    expected = [a / scale for a in (-2.0, -1.0, 3.0, 0.0, -2.0, 2.0)]
    assert reinforce_pp_baseline(scores, sizes).tolist() == pytest.approx(expected, rel=1e-8)


def test_equal_scores_and_lone_samples_give_nothing() -> None:
    scores, sizes = torch.tensor([0.1, 0.1, 0.1, 7.0]), [3, 1]
    for advantages in (rloo(scores, sizes), grpo(scores, sizes), reinforce_pp_baseline(scores, sizes)):
        assert advantages.tolist() == pytest.approx([0.0] * 4, abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(SCORES, min_size=1, max_size=6), min_size=1, max_size=6))
def test_group_relative_equals_loops(groups: list[list[float]]) -> None:
    sizes = [len(group) for group in groups]
    scores = f64([s for group in groups for s in group])
    leave_one_out, per_group, centred = [], [], []
    for group in groups:
        for i, score in enumerate(group):
            others = group[:i] + group[i + 1 :]
            mean = statistics.fmean(group)
            leave_one_out.append(score - statistics.fmean(others) if others else 0.0)
            per_group.append((score - mean) / (statistics.stdev(group) + 0.01) if others else 0.0)
            centred.append(score - mean)
    assert rloo(scores, sizes).tolist() == pytest.approx(leave_one_out, rel=1e-10, abs=1e-10)
    assert grpo(scores, torch.tensor(sizes), eps=0.01).tolist() == pytest.approx(per_group, rel=1e-8, abs=1e-8)
    assert centre_by_group(scores, sizes).tolist() == pytest.approx(centred, rel=1e-10, abs=1e-10)


def test_the_better_sample_gets_the_larger_advantage() -> None:
    scores, sizes = f64([0.0, 1.0, 3.0, 2.0]), [2, 2]
    for advantages in (rloo(scores, sizes), grpo(scores, sizes), reinforce_pp_baseline(scores, sizes)):
        a, b, c, d = advantages.tolist()
        assert a < 0 < b
        assert d < 0 < c


def test_reinforce_pp_over_two_ranks_equals_one() -> None:
    scores = f64([1.0, 2.0, 6.0, 5.0, 0.0, 4.0, 9.0])
    whole = reinforce_pp_baseline(scores, [3, 2, 2])
    batch = moments(centre_by_group(scores[:3], [3])) + moments(centre_by_group(scores[3:], [2, 2]))
    parts = [
        reinforce_pp_baseline(scores[:3], [3], batch=batch),
        reinforce_pp_baseline(scores[3:], [2, 2], batch=batch),
    ]
    assert torch.cat(parts).tolist() == pytest.approx(whole.tolist(), rel=1e-13)


def test_spread_and_place_at_last() -> None:
    assert spread(f64([1.0, -2.0]), [3, 1]).tolist() == [1.0, 1.0, 1.0, -2.0]
    assert place_at_last(f64([1.0, -2.0]), torch.tensor([3, 1])).tolist() == [0.0, 0.0, 1.0, -2.0]


def test_explained_variance() -> None:
    returns = f64([1.0, 2.0, 3.0, 4.0])
    assert explained_variance(returns, returns) == 1.0
    assert explained_variance(returns + 5.0, returns) == pytest.approx(1.0, rel=1e-12)  # a constant error varies not
    assert explained_variance(torch.zeros(4), returns) == 0.0
    assert explained_variance(-returns, returns) == pytest.approx(-3.0, rel=1e-12)
    assert explained_variance(f64([1.0, 1.0, 3.0, 3.0]), returns) == pytest.approx(1 - 0.25 / 1.25, rel=1e-12)
    assert explained_variance(returns, torch.ones(4)) == 0.0
    mask = torch.tensor([True, False, True, True])
    dirty = f64([1.0, float("nan"), 3.0, 4.0])
    assert explained_variance(dirty, dirty, mask) == 1.0


def test_explained_variance_over_two_ranks_equals_one() -> None:
    values, returns = f64([0.5, 2.5, 2.0, 4.0, 1.0]), f64([1.0, 2.0, 3.0, 4.0, 0.0])
    residuals = returns - values
    parts = explained_variance_of(
        moments(residuals[:2]) + moments(residuals[2:]), moments(returns[:2]) + moments(returns[2:])
    )
    assert parts == pytest.approx(explained_variance(values, returns), rel=1e-12)
