"""The reward that punishes a wrong length. The one that rewards a right length stands in `rlft_core.rewards.text`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlft_core.config.rewards import LengthPenaltyConfig
from rlft_core.rewards.protocol import Sample, reference_of


def length_penalty(
    length: int,
    *,
    form: Literal["linear", "quadratic", "count"],
    wanted: int = 0,
    tolerance: int = 0,
    scale: float,
    cap: float | None = None,
) -> float:
    """Minus what a length costs, 0 at best: with d = max(0, |length - wanted| - tolerance),

    linear: -d / scale; quadratic: -(d / scale)^2; count: -length / scale, whatever is wanted; never below -cap.
    """
    over = length if form == "count" else max(0, abs(length - wanted) - tolerance)
    cost = over / scale
    if form == "quadratic":
        cost = cost * cost
    return 0.0 - (cost if cap is None else min(cost, cap))


@dataclass(frozen=True, slots=True)
class LengthPenaltyReward:
    """A penalty for a length other than the target's or the reference's. Breakdown: the length, named after its unit."""

    config: LengthPenaltyConfig

    @property
    def name(self) -> str:
        return self.config.label

    def __call__(self, samples: Sequence[Sample]) -> list[tuple[float, dict[str, float]]]:
        return [self._value(sample) for sample in samples]

    def _value(self, sample: Sample) -> tuple[float, dict[str, float]]:
        config = self.config
        length = len(sample.token_ids) if config.unit == "tokens" else _length(sample.text, config.unit)
        wanted = config.target or 0
        if config.needs_reference:
            wanted = _length(reference_of(sample), config.unit)
        value = length_penalty(
            length,
            form=config.form,
            wanted=wanted,
            tolerance=config.tolerance,
            scale=config.scale,
            cap=config.cap,
        )
        return value, {config.unit: float(length)}


def _length(text: str, unit: str) -> int:
    return len(text.split()) if unit == "words" else len(text.strip())
