"""Advantages: with a critic (GAE) for each token, or relative to the group of a prompt for each sequence.

Token tensors are flat: the T tokens of S sequences, one after the other, with `lengths` [S] (each at least 1).
Scores of groups are flat too: the sequences of G prompts, one group after the other, with `group_sizes` [G]. Groups
may differ in size, because a sample can be skipped; there may be none at all, on a rank whose samples were all skipped.
Nothing here carries a gradient: every result is detached.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlft_core.masking import Moments, masked_fill_zero, moments, whiten

Sizes = Sequence[int] | Tensor

STD_EPS = 1e-6


@torch.no_grad()
def gae(rewards: Tensor, values: Tensor, lengths: Sizes, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates [T] and returns [T] (Schulman et al. 2016, arXiv 1506.02438).

        delta_t     = r_t + gamma * V_{t+1} - V_t
        advantage_t = delta_t + gamma * lam * advantage_{t+1}
        return_t    = advantage_t + V_t                            (the lambda-return: what the critic learns)

    `rewards` [T], `values` [T] (V_t: the value before token t is produced). Every sequence is a complete episode: V and
    the advantage after its last token are 0, for one that was cut off at the length limit as well. Nothing crosses
    from a sequence to the next. Raises ValueError when the lengths do not add up to T.
    """
    if rewards.shape != values.shape:
        raise ValueError(f"rewards {list(rewards.shape)} and values {list(values.shape)} must have one shape")
    dtype = torch.promote_types(torch.promote_types(rewards.dtype, values.dtype), torch.float32)
    rewards, values = rewards.to(dtype), values.to(dtype)
    sizes = _sizes(lengths, values.shape[0], values.device)
    if not len(values):
        return values, values
    ends = sizes.cumsum(0) - 1
    next_values = torch.cat([values[1:], values.new_zeros(1)])
    next_values[ends] = 0.0
    delta = rewards + gamma * next_values - values

    # Time-major and padded at the end: one vector operation over all sequences for each step of the recursion.
    sequence = torch.repeat_interleave(torch.arange(len(sizes), device=values.device), sizes)
    time = torch.arange(len(values), device=values.device) - (ends - sizes + 1)[sequence]
    padded = delta.new_zeros(int(sizes.max()), len(sizes))
    padded[time, sequence] = delta
    for t in range(len(padded) - 2, -1, -1):
        padded[t].add_(padded[t + 1], alpha=gamma * lam)
    advantages = padded[time, sequence]
    return advantages, advantages + values


@torch.no_grad()
def centre_by_group(scores: Tensor, group_sizes: Sizes) -> Tensor:
    """Each score minus the mean of its group [S]: the numerator that the group-relative estimators share."""
    return _centre(scores, group_sizes)[0].to(scores.dtype)


@torch.no_grad()
def rloo(scores: Tensor, group_sizes: Sizes) -> Tensor:
    """Leave-one-out advantages [S] (Ahmadian et al. 2024, "Back to Basics", arXiv 2402.14740).

        A_i = s_i - mean of the others = (s_i - mean) * n / (n - 1)

    The baseline does not depend on sample i, so the policy gradient stays unbiased. A group of one has no others: 0.
    """
    centred, sizes = _centre(scores, group_sizes)
    return (centred * sizes / (sizes - 1.0).clamp_min(1.0)).to(scores.dtype)


@torch.no_grad()
def grpo(scores: Tensor, group_sizes: Sizes, *, normalize_std: bool = True, eps: float = STD_EPS) -> Tensor:
    """Group-relative advantages [S] (Shao et al. 2024, "DeepSeekMath", arXiv 2402.03300).

        A_i = (s_i - mean) / (std + eps)        normalize_std
        A_i =  s_i - mean                       otherwise: Dr. GRPO (Liu et al. 2025, arXiv 2503.20783)

    The std has the divisor n - 1; the paper does not say. It makes prompts whose samples nearly agree as loud as the
    others, which is the bias that Dr. GRPO removes. A group of one, or of equal scores, gives 0.
    """
    centred, sizes = _centre(scores, group_sizes)
    if not normalize_std:
        return centred.to(scores.dtype)
    groups = _group_ids(group_sizes, scores)
    squares = torch.zeros_like(centred).index_add_(0, groups, centred.square())[groups]
    std = (squares / (sizes - 1.0).clamp_min(1.0)).sqrt()
    return (centred / (std + eps)).to(scores.dtype)


@torch.no_grad()
def reinforce_pp_baseline(scores: Tensor, group_sizes: Sizes, *, batch: Moments | None = None) -> Tensor:
    """Group mean as the baseline, the global batch for the scale: [S] (Hu 2025, "REINFORCE++", arXiv 2501.03262).

        A = whiten(s - mean of its group)       over all sequences of the step

    One scale for the whole batch keeps easy and hard prompts in proportion, where GRPO divides each by its own. Every
    sequence counts once, whatever its length. When the step is spread over ranks, pass the all-reduced
    `moments(centre_by_group(scores, group_sizes))` as `batch`; otherwise it is taken from these scores.
    """
    centred, _ = _centre(scores, group_sizes)
    return whiten(centred, moments(centred) if batch is None else batch).to(scores.dtype)


@torch.no_grad()
def spread(per_sequence: Tensor, lengths: Sizes) -> Tensor:
    """[S] -> [T]: every token gets the number of its sequence."""
    sizes = _sizes(lengths, None, per_sequence.device)
    if per_sequence.shape != sizes.shape:
        raise ValueError(f"{list(per_sequence.shape)} numbers for {len(sizes)} sequences")
    return torch.repeat_interleave(per_sequence, sizes)


@torch.no_grad()
def place_at_last(scores: Tensor, lengths: Sizes) -> Tensor:
    """[S] -> [T]: the score at the last token of its sequence, 0 elsewhere."""
    sizes = _sizes(lengths, None, scores.device)
    if scores.shape != sizes.shape:
        raise ValueError(f"{list(scores.shape)} scores for {len(sizes)} sequences")
    placed = scores.new_zeros(int(sizes.sum()))
    placed[sizes.cumsum(0) - 1] = scores
    return placed


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor | None = None) -> float:
    """`1 - Var(returns - values) / Var(returns)`: 1 for a perfect critic, 0 for one that says the same everywhere.

    Negative when the critic is worse than a constant; 0 when the returns do not vary.
    """
    residuals = masked_fill_zero(returns.detach(), mask).double() - masked_fill_zero(values.detach(), mask).double()
    return explained_variance_of(moments(residuals, mask), moments(returns, mask))


def explained_variance_of(residuals: Moments, returns: Moments) -> float:
    """The same from moments of `returns - values` and of `returns`, which add over micro-batches and ranks."""
    return 1.0 - residuals.population_var / returns.population_var if returns.population_var > 0.0 else 0.0


def _sizes(sizes: Sizes, total: int | None, device: torch.device) -> Tensor:
    """Checked sizes as an int64 tensor on `device`."""
    result = torch.as_tensor(sizes, dtype=torch.long, device=device)
    if result.dim() != 1 or bool((result < 1).any()):
        raise ValueError(f"sizes must be a list of numbers of at least 1, got {result.tolist()}")
    if total is not None and int(result.sum()) != total:
        raise ValueError(f"the sizes add up to {int(result.sum())}, but there are {total} entries")
    return result


def _group_ids(group_sizes: Sizes, scores: Tensor) -> Tensor:
    """[S]: which group each sequence belongs to."""
    sizes = _sizes(group_sizes, scores.shape[0], scores.device)
    return torch.repeat_interleave(torch.arange(len(sizes), device=scores.device), sizes)


def _centre(scores: Tensor, group_sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Scores minus their group's mean, and the size of each one's group: [S] each, float64."""
    groups = _group_ids(group_sizes, scores)
    exact = scores.detach().to(torch.float64)
    totals = torch.zeros_like(exact).index_add_(0, groups, exact)[groups]
    sizes = torch.bincount(groups)[groups].to(torch.float64)
    return exact - totals / sizes, sizes
