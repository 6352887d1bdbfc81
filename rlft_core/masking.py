"""Sums, means and variances over the tokens that count, and statistics that add over micro-batches and ranks.

A masked position may hold anything, NaN and infinity included: it is replaced before any arithmetic
(multiplying by the mask would turn 0 * NaN into NaN, in the value or in the gradient). Every `mask` is
boolean, of the shape of `x`, True where the token counts; None means that all count. Nothing here talks to
other ranks: `Moments` and `Tally` add, and `to_tensor` gives what a caller's all-reduce needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WHITEN_EPS = 1e-8


def masked_fill_zero(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x` with 0 where the mask is False; the gradient there is exactly 0, whatever `x` held.

    Raises ValueError when the mask is not boolean or its shape is not that of `x`.
    """
    if mask is None:
        return x
    if mask.dtype != torch.bool or mask.shape != x.shape:
        raise ValueError(f"mask must be boolean {list(x.shape)}, got {mask.dtype} {list(mask.shape)}")
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))


def masked_count(x: Tensor, mask: Tensor | None) -> Tensor:
    """How many positions count: a float64 scalar on the device of `x`."""
    if mask is None:
        return torch.tensor(float(x.numel()), dtype=torch.float64, device=x.device)
    return mask.sum(dtype=torch.float64)


def masked_sum(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum of `x` over the mask: a scalar in the dtype of `x`, float32 for half-precision inputs."""
    return masked_fill_zero(x, mask).sum(dtype=_sum_dtype(x))


def masked_mean(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of `x` over the mask; 0 for an all-false mask."""
    return masked_sum(x, mask) / masked_count(x, mask).clamp_min(1.0).to(_sum_dtype(x))


def masked_var(x: Tensor, mask: Tensor | None = None, *, unbiased: bool = True) -> Tensor:
    """Variance of `x` over the mask, with divisor n - 1 (`unbiased`) or n; 0 when nothing can vary (n < 2)."""
    centred = masked_fill_zero(x.to(_sum_dtype(x)) - masked_mean(x, mask), mask)
    divisor = masked_count(x, mask) - (1.0 if unbiased else 0.0)
    return centred.square().sum() / divisor.clamp_min(1.0).to(centred.dtype)


def masked_whiten(x: Tensor, mask: Tensor | None = None, shift_mean: bool = True, *, eps: float = WHITEN_EPS) -> Tensor:
    """`(x - mean) / sqrt(var + eps)` over the mask, 0 outside it; with `shift_mean=False` the mean is kept.

    The variance is the unbiased one, and no gradient flows through the statistics. Only for a batch that is whole:
    with micro-batches or ranks, add their `moments` and call `whiten`, or each part is whitened by its own mean.
    """
    return masked_fill_zero(whiten(masked_fill_zero(x, mask), moments(x, mask), shift_mean, eps=eps), mask)


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, sum and sum of squares in float64: the moments of a union are the sum of the moments.

    mean = sum / n,  var = (sum_sq - sum^2 / n) / (n - 1),  population_var with divisor n. All are 0 where undefined.
    """

    count: float = 0.0
    sum: float = 0.0
    sum_sq: float = 0.0

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.sum + other.sum, self.sum_sq + other.sum_sq)

    @property
    def mean(self) -> float:
        return self.sum / self.count if self.count else 0.0

    @property
    def var(self) -> float:
        return self._squares / (self.count - 1.0) if self.count > 1.0 else 0.0

    @property
    def population_var(self) -> float:
        return self._squares / self.count if self.count else 0.0

    @property
    def _squares(self) -> float:
        # Rounding may leave a tiny negative number for equal values.
        return max(0.0, self.sum_sq - self.sum * self.mean)

    def to_tensor(self, device: torch.device | str = "cpu") -> Tensor:
        """[3] float64, to be all-reduced by sum."""
        return torch.tensor([self.count, self.sum, self.sum_sq], dtype=torch.float64, device=device)

    @classmethod
    def from_tensor(cls, values: Tensor) -> Moments:
        """Inverse of `to_tensor`."""
        count, total, squares = values.tolist()
        return cls(count, total, squares)


def moments(x: Tensor, mask: Tensor | None = None) -> Moments:
    """Moments of `x` over the mask, detached, in float64."""
    filled = masked_fill_zero(x.detach(), mask).to(torch.float64)
    return Moments.from_tensor(torch.stack([masked_count(x, mask), filled.sum(), filled.square().sum()]))


def whiten(x: Tensor, statistics: Moments, shift_mean: bool = True, *, eps: float = WHITEN_EPS) -> Tensor:
    """`(x - mean) / sqrt(var + eps)` with the mean and variance of `statistics`, in the dtype of `x`.

    With `shift_mean=False` the result keeps the mean it had: rewards are scaled but their zero stays where it was.
    """
    scale = (statistics.var + eps) ** -0.5
    shift = 0.0 if shift_mean else statistics.mean
    whitened: Tensor = (x.to(torch.float64) - statistics.mean) * scale + shift
    return whitened.to(x.dtype)


@dataclass(frozen=True, slots=True)
class Tally:
    """One metric over tokens: `sum`, `count` and `max`, float64 scalars on the device, so that nothing waits for it.

    Tallies add over micro-batches and ranks: sums and counts by addition, `max` by maximum (-inf for no token).
    """

    sum: Tensor
    count: Tensor
    max: Tensor

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.sum + other.sum, self.count + other.count, torch.maximum(self.max, other.max))

    @property
    def mean(self) -> float:
        """sum / count; 0 for no token."""
        return float(self.sum / self.count.clamp_min(1.0))


def tally(x: Tensor, mask: Tensor | None = None) -> Tally:
    """The tally of `x` over the mask, detached. A boolean `x` gives the share of True as its mean."""
    values = x.detach().to(torch.float64)
    filled = masked_fill_zero(values, mask)
    candidates = values if mask is None else torch.where(mask, values, -torch.inf)
    lowest = torch.full((1,), -torch.inf, dtype=torch.float64, device=x.device)
    return Tally(filled.sum(), masked_count(x, mask), torch.cat([candidates.reshape(-1), lowest]).max())


def add_tallies(a: Mapping[str, Tally], b: Mapping[str, Tally]) -> dict[str, Tally]:
    """Metrics of two parts as those of the whole; a name that only one part has is kept."""
    both = {name: a[name] + b[name] for name in a if name in b}
    return {**a, **b, **both}


def tallies_to_tensors(tallies: Mapping[str, Tally]) -> tuple[Tensor, Tensor]:
    """Sums and counts [K, 2] (to be all-reduced by sum) and maxima [K] (by maximum), in the order of the names."""
    ordered = [tallies[name] for name in sorted(tallies)]
    return torch.stack([torch.stack([t.sum, t.count]) for t in ordered]), torch.stack([t.max for t in ordered])


def tallies_from_tensors(names: Sequence[str], sums: Tensor, maxima: Tensor) -> dict[str, Tally]:
    """Inverse of `tallies_to_tensors`; `names` in any order, the same on every rank."""
    return {name: Tally(sums[row, 0], sums[row, 1], maxima[row]) for row, name in enumerate(sorted(names))}


def _sum_dtype(x: Tensor) -> torch.dtype:
    return x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
