"""KL divergence to a reference policy: estimators from sampled tokens, and the coefficient that weighs it.

Whether the KL enters the reward or the loss is the caller's choice; so is the reduction over tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from rlft_core.masking import masked_fill_zero

KlKind = Literal["k1", "k2", "k3"]

MAX_LOG_RATIO = 20.0
"""Log-ratios beyond this (a ratio of 5e8) are treated as this: `exp` must not overflow into an infinite loss."""

MAX_RELATIVE_ERROR = 0.2
"""Bound of the adaptive controller's relative error in one update (Ziegler et al. 2019)."""


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: KlKind, *, mask: Tensor | None = None) -> Tensor:
    """Estimate of KL(policy || reference) at each token sampled from the policy: [T], 0 where masked.

    With d = log policy(a) - log reference(a) (J. Schulman, "Approximating KL Divergence", 2020):

        k1 = d                      unbiased, high variance, negative for about half of the samples
        k2 = d^2 / 2                biased (small while the policies are close), low variance, never negative
        k3 = exp(-d) - 1 + d        unbiased, low variance, never negative; heavy tail where the reference is likelier

    In a reward (detached), k1 gives the true gradient of the KL: the score function multiplies it by grad log policy,
    and E[d * grad log policy] is that gradient. k2 and k3 in a reward do not.

    As a loss, differentiated through `logprobs` of tokens sampled from the current policy:

        grad k1 = grad log policy                  expectation 0: no force at all
        grad k2 = d * grad log policy              the gradient of KL(policy || reference)
        grad k3 = (1 - exp(-d)) * grad log policy  the gradient of KL(reference || policy); the same to first order in d

    |d| is limited to `MAX_LOG_RATIO` inside the exponential of k3; a token beyond it has no gradient. No gradient flows
    to `ref_logprobs`. Raises ValueError for an unknown kind.
    """
    d = masked_fill_zero(logprobs, mask) - masked_fill_zero(ref_logprobs.detach(), mask)
    match kind:
        case "k1":
            return d
        case "k2":
            return 0.5 * d.square()
        case "k3":
            bounded = d.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
            return torch.expm1(-bounded) + bounded
        case _:
            raise ValueError(f"the KL estimator is k1, k2 or k3, not {kind!r}")


@dataclass(frozen=True, slots=True)
class FixedKl:
    """A KL coefficient that stays as it is. Raises ValueError for a negative one."""

    coefficient: float

    def __post_init__(self) -> None:
        _check_coefficient(self.coefficient)

    def update(self, observed_kl: float, num_samples: int) -> FixedKl:
        """Itself: neither what was observed nor how often matters."""
        return self

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"coefficient": self.coefficient}

    @classmethod
    def from_state(cls, state: Mapping[str, float]) -> FixedKl:
        """Inverse of `state`."""
        return cls(coefficient=state["coefficient"])


@dataclass(frozen=True, slots=True)
class AdaptiveKl:
    """A KL coefficient steered towards a target (Ziegler et al. 2019, arXiv 1909.08593).

        error       = clip(observed / target - 1, -0.2, 0.2)
        coefficient = coefficient * (1 + error * n / horizon)

    `target` is in the unit of what is observed (in the paper nats per sequence, k1 summed over its tokens). `horizon`
    is in samples: after `horizon` samples at the bound of the error the coefficient has changed by about e^0.2.
    Raises ValueError for a negative coefficient, or a target or horizon that is not positive.
    """

    coefficient: float
    target: float
    horizon: float

    def __post_init__(self) -> None:
        _check_coefficient(self.coefficient)
        if not (self.target > 0 and self.horizon > 0):
            raise ValueError(f"KL target and horizon must be above 0, got {self.target} and {self.horizon}")

    def update(self, observed_kl: float, num_samples: int) -> AdaptiveKl:
        """The controller for the next step, after `num_samples` sequences whose mean KL was `observed_kl`.

        Raises ValueError when the KL is not finite: the run has diverged, and no coefficient follows from that. One
        update never makes the coefficient negative, however many samples it holds.
        """
        if not math.isfinite(observed_kl):
            raise ValueError(f"the observed KL is {observed_kl}")
        error = min(max(observed_kl / self.target - 1.0, -MAX_RELATIVE_ERROR), MAX_RELATIVE_ERROR)
        return replace(self, coefficient=max(0.0, self.coefficient * (1.0 + error * num_samples / self.horizon)))

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"coefficient": self.coefficient, "target": self.target, "horizon": self.horizon}

    @classmethod
    def from_state(cls, state: Mapping[str, float]) -> AdaptiveKl:
        """Inverse of `state`."""
        return cls(coefficient=state["coefficient"], target=state["target"], horizon=state["horizon"])


KlController = FixedKl | AdaptiveKl


def kl_from_state(state: Mapping[str, float]) -> KlController:
    """The controller whose `state()` this is: adaptive if it has a target."""
    return AdaptiveKl.from_state(state) if "target" in state else FixedKl.from_state(state)


def _check_coefficient(coefficient: float) -> None:
    if not (math.isfinite(coefficient) and coefficient >= 0):
        raise ValueError(f"the KL coefficient must be a finite number of at least 0, got {coefficient}")
