"""Losses against plain Python loops and numbers worked by hand; masks, signs and the way a batch is cut."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlft_core.losses import (
    entropy_bonus,
    kl_loss,
    policy_loss,
    preference_loss,
    sft_loss,
    truncated_importance_weights,
    value_loss,
)
from rlft_core.masking import add_tallies

NAN, INF = math.nan, math.inf


def f64(values: list[float], requires_grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=requires_grad)


def logs(ratios: list[float], requires_grad: bool = False) -> Tensor:
    return f64([math.log(r) for r in ratios], requires_grad)


def grad(x: Tensor) -> list[float]:
    assert x.grad is not None
    return x.grad.tolist()


def loop_policy(ratio: float, advantage: float, low: float, high: float, dual: float | None) -> float:
    bounded = min(max(ratio, 1 - low), 1 + high)
    objective = min(ratio * advantage, bounded * advantage)
    if dual is not None and advantage < 0:
        objective = max(objective, dual * advantage)
    return -objective


def test_policy_loss_by_hand() -> None:
    logprobs = logs([1.0, 1.5, 0.5, 1.5, 0.5, 5.0], requires_grad=True)
    advantages = f64([2.0, 2.0, 2.0, -2.0, -2.0, -2.0])
    loss, metrics = policy_loss(logprobs, torch.zeros(6), advantages, clip_low=0.2, clip_high=0.3, dual_clip=3.0)
    # 1*2, 1.3*2 (clipped above), .5*2, -1.5*2, -.8*2 (clipped below), -3*2 (dual clip; -5*2 without it)
    assert loss.item() == pytest.approx(-2.0 - 2.6 - 1.0 + 3.0 + 1.6 + 6.0, rel=1e-12)
    loss.backward()
    assert grad(logprobs) == pytest.approx([-2.0, 0.0, -1.0, 3.0, 0.0, 0.0], rel=1e-12)  # -ratio * A, or cut
    assert metrics["clip_fraction_upper"].mean == pytest.approx(1 / 6)
    assert metrics["clip_fraction_lower"].mean == pytest.approx(1 / 6)
    assert metrics["dual_clip_fraction"].mean == pytest.approx(1 / 6)
    assert metrics["ratio"].mean == pytest.approx(10.0 / 6, rel=1e-12)
    assert float(metrics["ratio"].max) == pytest.approx(5.0, rel=1e-12)
    ratios = [1.0, 1.5, 0.5, 1.5, 0.5, 5.0]
    assert metrics["approx_kl"].mean == pytest.approx(sum(r - 1 - math.log(r) for r in ratios) / 6, rel=1e-12)
    assert metrics["policy_loss"].mean == pytest.approx(loss.item() / 6, rel=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.floats(-2, 2), st.floats(-3, 3), st.floats(0, 2)), min_size=1, max_size=12),
    st.floats(0.05, 0.9),
    st.floats(0.05, 2.0),
    st.one_of(st.none(), st.floats(1.1, 5.0)),
)
def test_policy_loss_equals_a_loop(
    tokens: list[tuple[float, float, float]], low: float, high: float, dual: float | None
) -> None:
    log_ratios, advantages, weights = (list(column) for column in zip(*tokens, strict=True))
    old = [-0.5] * len(tokens)
    loss, _ = policy_loss(
        f64([o + d for o, d in zip(old, log_ratios, strict=True)]),
        f64(old),
        f64(advantages),
        clip_low=low,
        clip_high=high,
        dual_clip=dual,
        weights=f64(weights),
    )
    expected = sum(w * loop_policy(math.exp(d), a, low, high, dual) for d, a, w in tokens)
    assert loss.item() == pytest.approx(expected, rel=1e-10, abs=1e-10)


@settings(deadline=None, max_examples=60)
@given(st.floats(-30, 30), st.floats(-5, -0.01), st.floats(1.2, 6.0))
def test_dual_clip_bounds_the_loss_of_a_bad_token(log_ratio: float, advantage: float, dual: float) -> None:
    options = {"clip_low": 0.2, "clip_high": 0.2}
    args = (f64([log_ratio]), f64([0.0]), f64([advantage]))
    bounded, _ = policy_loss(*args, **options, dual_clip=dual)
    free, _ = policy_loss(*args, **options, dual_clip=None)
    # Floors: (1 - clip_low) * |A| below by the ordinary clip, dual * |A| above.
    assert 0.8 * -advantage - 1e-9 <= bounded.item() <= dual * -advantage + 1e-9
    assert bounded.item() == pytest.approx(min(free.item(), dual * -advantage), rel=1e-12)


@pytest.mark.parametrize("advantage", [1.5, -1.5])
def test_a_step_down_the_policy_loss_follows_the_advantage(advantage: float) -> None:
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    before = logits.log_softmax(0)[1]
    loss, _ = policy_loss(before[None], before.detach()[None], f64([advantage]), clip_low=0.2, clip_high=0.2)
    loss.backward()
    with torch.no_grad():
        after = (logits - 0.1 * torch.tensor(grad(logits))).log_softmax(0)[1]
    assert math.copysign(1.0, (after - before).item()) == math.copysign(1.0, advantage)


def test_an_absurd_ratio_is_finite_and_without_gradient() -> None:
    logprobs = torch.tensor([0.0, -300.0], requires_grad=True)
    loss, metrics = policy_loss(logprobs, torch.tensor([-300.0, 0.0]), -torch.ones(2), clip_low=0.2, clip_high=0.2)
    loss.backward()
    assert math.isfinite(loss.item())
    assert grad(logprobs) == [0.0, 0.0]
    assert float(metrics["ratio"].max) == pytest.approx(math.exp(20.0), rel=1e-6)


def test_senseless_bounds_are_refused() -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match="clip"):
        policy_loss(one, one, one, clip_low=-0.1, clip_high=0.2)
    with pytest.raises(ValueError, match="dual_clip"):
        policy_loss(one, one, one, clip_low=0.2, clip_high=0.2, dual_clip=1.0)
    with pytest.raises(ValueError, match="value clip"):
        value_loss(one, one, one, clip=0.0)
    with pytest.raises(ValueError, match="cap"):
        truncated_importance_weights(one, one, 0.0)


def test_value_loss_by_hand() -> None:
    old, returns = f64([0.0, 0.0, 0.0, 0.0]), f64([1.0, 1.0, -1.0, 0.1])
    values = f64([0.5, 0.1, 0.5, 0.1], requires_grad=True)
    loss, metrics = value_loss(values, old, returns, clip=0.2)
    # errors .5 -> clipped .8 is larger; .9 within the clip; 1.5 larger than the clipped 1.2; 0
    assert loss.item() == pytest.approx(0.5 * (0.64 + 0.81 + 2.25 + 0.0), rel=1e-12)
    loss.backward()
    assert grad(values) == pytest.approx([0.0, -0.9, 1.5, 0.0], rel=1e-12)
    assert metrics["value_clip_fraction"].mean == 0.25
    assert metrics["value"].mean == pytest.approx(0.3, rel=1e-12)
    assert metrics["value_loss"].mean == pytest.approx(loss.item() / 4, rel=1e-12)
    plain, _ = value_loss(values, old, returns)
    assert plain.item() == pytest.approx(0.5 * (0.25 + 0.81 + 2.25), rel=1e-12)


def test_value_loss_equals_a_loop() -> None:
    rng = random.Random(1)
    rows = [(rng.gauss(0, 1), rng.gauss(0, 1), rng.gauss(0, 1)) for _ in range(40)]
    expected = 0.0
    for v, old, target in rows:
        near = old + min(max(v - old, -0.3), 0.3)
        expected += 0.5 * max((v - target) ** 2, (near - target) ** 2)
    values, olds, targets = (f64(list(column)) for column in zip(*rows, strict=True))
    assert float(value_loss(values, olds, targets, clip=0.3)[0]) == pytest.approx(expected, rel=1e-12)


def test_value_clip_fraction_does_not_count_rounding() -> None:
    near = -0.1 * torch.rand(4000, generator=torch.Generator().manual_seed(0))
    _, metrics = value_loss(near, torch.full((4000,), 0.1), torch.zeros(4000), clip=0.25)
    assert metrics["value_clip_fraction"].mean == 0.0


def test_the_small_losses_by_hand() -> None:
    logprobs = f64([-1.0, -3.0, NAN])
    mask = torch.tensor([True, True, False])
    loss, metrics = sft_loss(logprobs, mask)
    assert loss.item() == 4.0
    assert metrics["nll"].mean == 2.0
    loss, metrics = entropy_bonus(f64([0.5, 1.5, NAN]), mask)
    assert loss.item() == -2.0
    assert metrics["entropy"].mean == 1.0
    loss, metrics = kl_loss(logprobs, f64([-2.0, -2.0, INF]), "k2", mask)
    assert loss.item() == 1.0
    assert metrics["kl_loss"].mean == 0.5


def test_truncated_importance_weights_by_hand() -> None:
    learner, engine = logs([0.5, 0.9, 0.2, 1.0]), logs([0.5, 0.3, 0.4, 1.0])
    mask = torch.tensor([True, True, True, False])
    learner[3], engine[3] = NAN, -INF
    weights, raw = truncated_importance_weights(learner.requires_grad_(), engine, 2.0, mask)
    assert raw.tolist() == pytest.approx([1.0, 3.0, 0.5, 1.0], rel=1e-12)
    assert weights.tolist() == pytest.approx([1.0, 2.0, 0.5, 1.0], rel=1e-12)
    assert not weights.requires_grad
    assert not raw.requires_grad


def policy_of(x: Tensor, other: Tensor, mask: Tensor | None) -> Tensor:
    options = {"clip_low": 0.2, "clip_high": 0.3, "dual_clip": 3.0}
    return policy_loss(x, other, other * 3 + 2, **options, mask=mask, weights=other.exp())[0]


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "policy": policy_of,
    "value": lambda x, other, mask: value_loss(x, other, other + 1, clip=0.2, mask=mask)[0],
    "value_unclipped": lambda x, other, mask: value_loss(x, other, other + 1, mask=mask)[0],
    "kl_k1": lambda x, other, mask: kl_loss(x, other, "k1", mask)[0],
    "kl_k2": lambda x, other, mask: kl_loss(x, other, "k2", mask)[0],
    "kl_k3": lambda x, other, mask: kl_loss(x, other, "k3", mask)[0],
    "entropy": lambda x, other, mask: entropy_bonus(x, mask)[0],
    "sft": lambda x, other, mask: sft_loss(x, mask)[0],
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("junk", [NAN, INF, -INF])
def test_masked_junk_reaches_neither_the_loss_nor_its_gradient(name: str, junk: float) -> None:
    mask = torch.tensor([True, False, True, False])
    dirty, clean = f64([-1.0, junk, -0.4, 0.0], True), f64([-1.0, -0.4], True)
    loss = LOSSES[name](dirty, f64([-1.3, junk, -0.5, junk]), mask)
    expected = LOSSES[name](clean, f64([-1.3, -0.5]), None)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-14)
    assert [grad(dirty)[0], grad(dirty)[2]] == pytest.approx(grad(clean), rel=1e-14)
    assert [grad(dirty)[1], grad(dirty)[3]] == [0.0, 0.0]


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_counts(name: str) -> None:
    x = f64([NAN, 1.0], requires_grad=True)
    loss = LOSSES[name](x, f64([1.0, NAN]), torch.zeros(2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
    assert grad(x) == [0.0, 0.0]


@pytest.mark.parametrize("name", LOSSES)
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_cutting_and_reordering_the_batch_do_not_change_the_gradient(name: str, data: st.DataObject) -> None:
    """A linear model of 2 weights: the gradient of sum / global count, whole against shuffled micro-batches."""
    size = data.draw(st.integers(2, 16))
    order = data.draw(st.permutations(range(size)))
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=4)))
    rng = random.Random(data.draw(st.integers(0, 1000)))
    features = f64([rng.gauss(0, 0.5) for _ in range(2 * size)]).reshape(size, 2)
    other = f64([rng.gauss(-1, 0.5) for _ in range(size)])
    mask = torch.tensor([rng.random() < 0.7 for _ in range(size)])
    count = max(1, int(mask.sum()))

    def gradient(parts: list[list[int]]) -> list[float]:
        model = f64([0.3, -0.2], requires_grad=True)
        for part in parts:
            index = torch.tensor(part, dtype=torch.long)
            (LOSSES[name](features[index] @ model - 1.0, other[index], mask[index]) / count).backward()
        return grad(model)

    edges = [0, *cuts, size]
    parts = [list(order[a:b]) for a, b in itertools.pairwise(edges)]
    assert gradient(parts) == pytest.approx(gradient([list(range(size))]), rel=1e-10, abs=1e-12)


def test_metrics_of_micro_batches_add_up_to_those_of_the_batch() -> None:
    rng = random.Random(2)
    x, old, advantages = (f64([rng.gauss(0, 0.5) for _ in range(30)]) for _ in range(3))
    mask = torch.tensor([rng.random() < 0.6 for _ in range(30)])

    def metrics(part: slice) -> dict[str, object]:
        return policy_loss(  # type: ignore[return-value]
            x[part], old[part], advantages[part], clip_low=0.1, clip_high=0.1, dual_clip=1.5, mask=mask[part]
        )[1]

    whole = metrics(slice(0, 30))
    parts = add_tallies(metrics(slice(0, 7)), metrics(slice(7, 30)))  # type: ignore[arg-type]
    assert whole.keys() == parts.keys()
    for name, total in whole.items():
        assert parts[name].mean == pytest.approx(total.mean, rel=1e-12)  # type: ignore[attr-defined]
        assert float(parts[name].max) == float(total.max)  # type: ignore[attr-defined]


def test_half_precision_inputs_are_computed_in_float32() -> None:
    x = torch.full((3000,), -1.0, dtype=torch.bfloat16)
    loss, _ = sft_loss(x)
    assert loss.dtype == torch.float32
    assert loss.item() == 3000.0


def test_preference_losses_by_hand() -> None:
    chosen, rejected = f64([2.0, -1.0, 0.0]), f64([-1.0, 1.0, 0.0])  # margins 3, -2, 0
    dpo = preference_loss(chosen, rejected, beta=0.5)
    assert dpo.tolist() == pytest.approx([0.2014132779827524, 1.3132616875182228, math.log(2)], abs=1e-12)
    ipo = preference_loss(chosen, rejected, beta=0.5, kind="ipo")
    assert ipo.tolist() == [4.0, 9.0, 1.0]
    hinge = preference_loss(chosen, rejected, beta=0.5, kind="hinge")
    assert hinge.tolist() == [0.0, 2.0, 1.0]
    smooth = preference_loss(chosen, rejected, beta=0.5, label_smoothing=0.1)
    assert smooth[0].item() == pytest.approx(0.9 * 0.2014132779827524 + 0.1 * 1.7014132779827524, abs=1e-12)


def test_the_gradient_of_dpo_weighs_pairs_that_are_wrong() -> None:
    chosen = f64([2.0, -2.0], requires_grad=True)
    preference_loss(chosen, f64([0.0, 0.0]), beta=0.5).sum().backward()
    assert grad(chosen) == pytest.approx([-0.5 / (1 + math.e), -0.5 / (1 + math.exp(-1))], abs=1e-12)


def test_preference_losses_refuse_what_makes_no_sense() -> None:
    one = f64([1.0])
    for keys in (
        {"beta": 0.0},
        {"beta": 0.1, "label_smoothing": 0.5},
        {"beta": 0.1, "label_smoothing": 0.1, "kind": "ipo"},
    ):
        with pytest.raises(ValueError, match=r"beta|smoothing"):
            preference_loss(one, one, **keys)  # type: ignore[arg-type]
