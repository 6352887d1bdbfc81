"""The losses of one optimiser step, each a sum over tokens, with metrics that add.

Every function returns `(loss_sum, metrics)`. The sum is not divided by anything: the caller divides by the number of
tokens of the whole optimiser step, over all micro-batches and all ranks,

    loss = sum over ranks and micro-batches of loss_sum / num_tokens_of_the_step,

because then the gradient is that of the whole batch however it was cut. A mean for each micro-batch would weigh a token
by the size of the micro-batch it happened to land in, and the same data on other hardware would train another model.
(FSDP and DDP average gradients over ranks: multiply by the number of ranks.)

All tensors are flat [T]; `mask` [T] is boolean, and a position outside it may hold NaN and gets gradient 0. Sums and
ratios run in float32 at least. Coefficients, reductions over ranks and the choice of the loss are the caller's.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from rlft_core.kl import MAX_LOG_RATIO, KlKind, kl_estimate
from rlft_core.masking import Tally, masked_fill_zero, tally

Loss = tuple[Tensor, dict[str, Tally]]


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
) -> Loss:
    """The clipped surrogate of PPO (Schulman et al. 2017, arXiv 1707.06347), as a loss.

        r = exp(logprobs - old_logprobs)
        objective = min(r * A, clip(r, 1 - clip_low, 1 + clip_high) * A)
        objective = max(objective, dual_clip * A)        where A < 0, with `dual_clip`
        loss_sum  = -sum(weights * objective)

    Separate bounds: "clip-higher" of DAPO (Yu et al. 2025, arXiv 2503.14476). Dual clip (Ye et al. 2020, arXiv
    1912.09729): for A < 0 the plain objective falls without bound as r grows; `dual_clip` > 1 puts a floor under it.
    `weights` [T] are multipliers without gradient, such as those of `truncated_importance_weights`. The gradient
    flows to `logprobs` only. |log r| is limited to 20, beyond which there is no gradient.

    Metrics: `policy_loss`, `ratio` (its `max` too), `approx_kl` (k3 of old against new), and the shares of tokens
    whose gradient was cut: `clip_fraction_upper` (A > 0, r above its bound), `clip_fraction_lower` (A < 0, r below its
    bound), `dual_clip_fraction`. Raises ValueError for bounds without meaning.
    """
    if not (0 <= clip_low <= 1 and clip_high >= 0):
        raise ValueError(f"the ratio's clip needs 0 <= low <= 1 and high >= 0, got {clip_low} and {clip_high}")
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"dual_clip must be above 1, got {dual_clip}")
    log_ratio = (_clean(logprobs, mask) - _clean(old_logprobs.detach(), mask)).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    advantage = _clean(advantages.detach(), mask)
    ratio = log_ratio.exp()
    objective = torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantage)
    dual_clipped = torch.zeros_like(ratio, dtype=torch.bool)
    if dual_clip is not None:
        floor = dual_clip * advantage
        dual_clipped = (advantage < 0) & (objective < floor)
        objective = torch.where(dual_clipped, floor, objective)
    losses = -objective if weights is None else -objective * _clean(weights.detach(), mask)
    metrics = {
        "policy_loss": tally(losses, mask),
        "ratio": tally(ratio, mask),
        "approx_kl": tally(torch.expm1(log_ratio) - log_ratio, mask),
        "clip_fraction_upper": tally((advantage > 0) & (ratio > 1.0 + clip_high), mask),
        "clip_fraction_lower": tally((advantage < 0) & (ratio < 1.0 - clip_low), mask),
        "dual_clip_fraction": tally(dual_clipped, mask),
    }
    return losses.sum(), metrics


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float | None = None, mask: Tensor | None = None
) -> Loss:
    """Squared error of the critic, clipped around the values of rollout time as in the PPO2 code of OpenAI's baselines.

        clipped  = old + clip(v - old, -clip, clip)
        loss_sum = sum of max((v - R)^2, (clipped - R)^2) / 2        without `clip`: sum of (v - R)^2 / 2

    The maximum makes the clip pessimistic: it takes away the reward for moving far, never the push back. Metrics:
    `value_loss`, `value` and `value_clip_fraction` (tokens beyond the clip whose gradient it cuts). Raises ValueError
    for a `clip` that is not positive.
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"the value clip must be above 0, got {clip}")
    value, old, target = _clean(values, mask), _clean(old_values.detach(), mask), _clean(returns.detach(), mask)
    squares = (value - target).square()
    clipped_wins = torch.zeros_like(squares, dtype=torch.bool)
    if clip is not None:
        clipped_squares = (old + (value - old).clamp(-clip, clip) - target).square()
        # Within the clip both are equal but for rounding, so a comparison of the errors alone would count noise.
        clipped_wins = ((value - old).abs() > clip) & (clipped_squares > squares)
        squares = torch.where(clipped_wins, clipped_squares, squares)
    losses = 0.5 * squares
    metrics = {
        "value_loss": tally(losses, mask),
        "value": tally(value, mask),
        "value_clip_fraction": tally(clipped_wins, mask),
    }
    return losses.sum(), metrics


def kl_loss(logprobs: Tensor, ref_logprobs: Tensor, kind: KlKind, mask: Tensor | None = None) -> Loss:
    """Sum of `kl_estimate` over the tokens, for tokens sampled from the policy that is differentiated.

    See there for the gradient of each kind: k2 has that of the KL, k1 none in expectation. Metric: `kl_loss`.
    """
    losses = kl_estimate(_clean(logprobs, mask), _clean(ref_logprobs, mask), kind)
    return losses.sum(), {"kl_loss": tally(losses, mask)}


def entropy_bonus(entropy: Tensor, mask: Tensor | None = None) -> Loss:
    """Minus the sum of the entropies: added to the loss with a positive coefficient, it keeps the policy broad.

    `entropy` [T] must carry its gradient (`token_logprobs(..., entropy_grad=True)`). Metric: `entropy`, positive.
    """
    cleaned = _clean(entropy, mask)
    return -cleaned.sum(), {"entropy": tally(cleaned, mask)}


@torch.no_grad()
def truncated_importance_weights(
    learner_old_logprobs: Tensor, engine_logprobs: Tensor, cap: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`(min(raw, cap), raw)` with raw = exp(learner_old - engine): [T] each, without gradient, 1 where masked.

    The tokens were drawn by the engine, whose kernels and (with lag) weights differ from the learner's; the ratio
    corrects for that, and the cap bounds its variance (truncated importance sampling: Ionides 2008; for actors behind
    their learner Espeholt et al. 2018, arXiv 1802.01561). Raises ValueError for a cap that is not positive.
    """
    if not cap > 0:
        raise ValueError(f"the cap of the importance weights must be above 0, got {cap}")
    log_ratio = _clean(learner_old_logprobs, mask) - _clean(engine_logprobs, mask)
    raw = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    return raw.clamp_max(cap), raw


def sft_loss(logprobs: Tensor, mask: Tensor | None = None) -> Loss:
    """Negative log-likelihood of the target tokens, summed. Metric: `nll` (its mean is nats per token)."""
    losses = -_clean(logprobs, mask)
    return losses.sum(), {"nll": tally(losses, mask)}


def _clean(x: Tensor, mask: Tensor | None) -> Tensor:
    """0 where masked, float32 at least: what all arithmetic here starts from."""
    filled = masked_fill_zero(x, mask)
    return filled if filled.dtype == torch.float64 else filled.float()


def bradley_terry_loss(good: Tensor, bad: Tensor, margin: float = 0.0) -> Tensor:
    """[N] rewards of the better and the worse text of each pair -> [N] -log sigma(good - bad - margin).

    Bradley and Terry 1952; as a loss with a margin: Touvron et al. 2023, eq. 2.
    """
    return softplus(-(good - bad - margin))


def binary_loss(good: Tensor, bad: Tensor) -> Tensor:
    """[N], [N] -> [N] (-log sigma(good) - log sigma(-bad)) / 2: cross-entropy in which both classes weigh alike."""
    return (softplus(-good) + softplus(bad)) / 2.0


def preference_loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: float,
    kind: Literal["dpo", "ipo", "hinge"] = "dpo",
    label_smoothing: float = 0.0,
) -> Tensor:
    """[N] loss of each pair from [N] log-ratios log(pi / pi_ref) of its chosen and its rejected text, summed over tokens.

        m = chosen - rejected
        dpo    -(1 - e) log sigma(beta m) - e log sigma(-beta m)     Rafailov et al. 2023, eq. 7; e: label smoothing
        ipo    (m - 1 / (2 beta))^2                                  Azar et al. 2023, eq. 17
        hinge  max(0, 1 - beta m)                                    Zhao et al. 2023 (SLiC), on log-ratios

    Raises ValueError for a beta that is not positive, smoothing outside [0, .5), or smoothing of another loss than dpo.
    """
    if not beta > 0 or not 0 <= label_smoothing < 0.5:
        raise ValueError(f"needs beta > 0 and 0 <= label_smoothing < .5, got {beta} and {label_smoothing}")
    if label_smoothing and kind != "dpo":
        raise ValueError(f"label smoothing belongs to dpo, not to {kind}")
    margin = chosen - rejected
    if kind == "ipo":
        return (margin - 1.0 / (2.0 * beta)).square()
    if kind == "hinge":
        return torch.relu(1.0 - beta * margin)
    return (1.0 - label_smoothing) * softplus(-beta * margin) + label_smoothing * softplus(beta * margin)
