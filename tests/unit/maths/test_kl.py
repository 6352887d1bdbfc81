"""KL estimators against exact expectations over a small vocabulary, and the controllers by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch

from rlft_core.kl import AdaptiveKl, FixedKl, KlKind, kl_estimate, kl_from_state

LOGITS = [0.3, -1.2, 0.8, 0.0]
REFERENCE = [0.1, 0.2, 0.3, 0.4]


def softmax(logits: list[float]) -> list[float]:
    weights = [math.exp(z) for z in logits]
    return [w / sum(weights) for w in weights]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def numeric_gradient(of_policy: object) -> list[float]:
    """Central differences of a function of the policy's probabilities, with respect to the logits."""
    assert callable(of_policy)
    gradient = []
    for i in range(len(LOGITS)):
        up, down = list(LOGITS), list(LOGITS)
        up[i] += 1e-5
        down[i] -= 1e-5
        gradient.append((of_policy(softmax(up)) - of_policy(softmax(down))) / 2e-5)
    return gradient


def expected_gradient(kind: KlKind) -> list[float]:
    """E over tokens of the policy of the gradient of the estimate: what a loss made of it pushes along."""
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    logprobs = logits.log_softmax(0)
    estimate = kl_estimate(logprobs, torch.tensor(REFERENCE, dtype=torch.float64).log(), kind)
    (logprobs.exp().detach() * estimate).sum().backward()
    assert logits.grad is not None
    return logits.grad.tolist()


def test_literal_values() -> None:
    logprobs = torch.tensor([-1.0, -2.0], dtype=torch.float64)
    reference = torch.tensor([-1.5, -1.0], dtype=torch.float64)
    assert kl_estimate(logprobs, reference, "k1").tolist() == [0.5, -1.0]
    assert kl_estimate(logprobs, reference, "k2").tolist() == [0.125, 0.5]
    expected = [math.exp(-0.5) - 1.0 + 0.5, math.e - 1.0 - 1.0]
    assert kl_estimate(logprobs, reference, "k3").tolist() == pytest.approx(expected, rel=1e-14)


def test_k1_and_k3_are_unbiased_and_k2_is_not() -> None:
    p = softmax(LOGITS)
    logp, logq = torch.tensor(p, dtype=torch.float64).log(), torch.tensor(REFERENCE, dtype=torch.float64).log()
    expectation = {
        kind: math.fsum(a * b for a, b in zip(p, kl_estimate(logp, logq, kind).tolist(), strict=True))
        for kind in ("k1", "k2", "k3")
    }
    assert expectation["k1"] == pytest.approx(kl(p, REFERENCE), rel=1e-12)
    assert expectation["k3"] == pytest.approx(kl(p, REFERENCE), rel=1e-12)
    assert abs(expectation["k2"] - kl(p, REFERENCE)) > 0.005


def test_gradients_in_expectation_are_those_of_the_docstring() -> None:
    assert expected_gradient("k1") == pytest.approx([0.0] * 4, abs=1e-15)
    assert expected_gradient("k2") == pytest.approx(numeric_gradient(lambda p: kl(p, REFERENCE)), abs=1e-9)
    assert expected_gradient("k3") == pytest.approx(numeric_gradient(lambda p: kl(REFERENCE, p)), abs=1e-9)


def test_a_step_down_the_loss_moves_towards_the_reference() -> None:
    p = softmax(LOGITS)
    for kind in ("k2", "k3"):
        moved = softmax([z - 0.1 * g for z, g in zip(LOGITS, expected_gradient(kind), strict=True)])
        assert kl(moved, REFERENCE) < kl(p, REFERENCE)


def test_k3_stays_exact_for_policies_that_nearly_agree() -> None:
    d = 1e-7
    estimate = kl_estimate(torch.tensor([d], dtype=torch.float64), torch.zeros(1, dtype=torch.float64), "k3")
    assert estimate.item() == pytest.approx(d * d / 2, rel=1e-3, abs=1e-22)


def test_k3_does_not_overflow() -> None:
    logprobs = torch.tensor([-500.0, -1.0], requires_grad=True)
    estimate = kl_estimate(logprobs, torch.tensor([-1.0, -500.0]), "k3")
    estimate.sum().backward()
    assert bool(estimate.isfinite().all())
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_masked_positions_are_zero_and_carry_no_gradient(kind: KlKind) -> None:
    mask = torch.tensor([True, False, False])
    logprobs = torch.tensor([-1.0, math.nan, -math.inf], requires_grad=True)
    reference = torch.tensor([-2.0, -math.inf, math.nan], requires_grad=True)
    estimate = kl_estimate(logprobs, reference, kind, mask=mask)
    estimate.sum().backward()
    assert estimate[1:].tolist() == [0.0, 0.0]
    assert estimate[0].item() > 0.0
    assert logprobs.grad is not None
    assert logprobs.grad[1:].tolist() == [0.0, 0.0]
    assert float(logprobs.grad[0]) > 0.0
    assert reference.grad is None


def test_an_unknown_estimator_is_named() -> None:
    with pytest.raises(ValueError, match="k4"):
        kl_estimate(torch.zeros(1), torch.zeros(1), "k4")  # type: ignore[arg-type]


def test_a_fixed_coefficient_does_not_move() -> None:
    controller = FixedKl(0.05)
    assert controller.update(100.0, 64) == controller
    assert controller.update(math.nan, 64) == controller


@pytest.mark.parametrize(
    "observed, factor",
    [
        (6.0, 1.0),
        (6.6, 1.0 + 0.1 * 64 / 1000),
        (60.0, 1.0 + 0.2 * 64 / 1000),  # error 9, clipped
        (5.4, 1.0 - 0.1 * 64 / 1000),
        (0.0, 1.0 - 0.2 * 64 / 1000),  # error -1, clipped
    ],
)
def test_the_adaptive_coefficient_follows_the_clipped_error(observed: float, factor: float) -> None:
    updated = AdaptiveKl(coefficient=0.1, target=6.0, horizon=1000).update(observed, 64)
    assert updated.coefficient == pytest.approx(0.1 * factor, rel=1e-12)
    assert (updated.target, updated.horizon) == (6.0, 1000)


def test_the_adaptive_coefficient_never_turns_negative() -> None:
    assert AdaptiveKl(coefficient=0.1, target=1.0, horizon=1.0).update(0.0, 100).coefficient == 0.0


def test_a_diverged_kl_is_an_error() -> None:
    with pytest.raises(ValueError, match="nan"):
        AdaptiveKl(coefficient=0.1, target=6.0, horizon=100).update(math.nan, 1)


def test_controllers_survive_a_checkpoint() -> None:
    adaptive = AdaptiveKl(coefficient=0.1, target=6.0, horizon=1000).update(7.0, 3)
    for controller in (adaptive, FixedKl(0.3)):
        assert kl_from_state(json.loads(json.dumps(controller.state()))) == controller


def test_senseless_controllers_are_refused() -> None:
    for make in (
        lambda: FixedKl(-0.1),
        lambda: FixedKl(math.nan),
        lambda: AdaptiveKl(coefficient=0.1, target=0.0, horizon=10),
        lambda: AdaptiveKl(coefficient=0.1, target=1.0, horizon=-1),
    ):
        with pytest.raises(ValueError, match="KL"):
            make()
