"""Rewards for length: one that pays for a length within bounds, one that charges for a wrong length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlft_core.config.rewards import LengthConfig, LengthPenaltyConfig
from rlft_core.rewards.protocol import Sample, reference_of


def length_reward(length: int, *, low: int, high: int | None, tolerance: int) -> float:
    """max(0, 1 - d / tolerance), d = distance of `length` from [low, high]; with tolerance 0: 1 if d = 0 else 0."""
    distance = max(low - length, 0 if high is None else length - high, 0)
    if distance == 0:
        return 1.0
    return max(0.0, 1.0 - distance / tolerance) if tolerance > 0 else 0.0


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
class LengthReward:
    """Length within bounds, with a linear slope outside. Breakdown: the length, named after its unit."""

    config: LengthConfig

    @property
    def name(self) -> str:
        return self.config.label

    def __call__(self, samples: Sequence[Sample]) -> list[tuple[float, dict[str, float]]]:
        return [self._value(sample) for sample in samples]

    def _value(self, sample: Sample) -> tuple[float, dict[str, float]]:
        config = self.config
        length = _length(sample, config.unit)
        value = length_reward(length, low=config.min, high=config.max, tolerance=config.tolerance)
        return value, {config.unit: float(length)}


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
        length = _length(sample, config.unit)
        wanted = config.target or 0
        if config.needs_reference:
            wanted = _text_length(reference_of(sample), config.unit)
        value = length_penalty(
            length,
            form=config.form,
            wanted=wanted,
            tolerance=config.tolerance,
            scale=config.scale,
            cap=config.cap,
        )
        return value, {config.unit: float(length)}


def _length(sample: Sample, unit: str) -> int:
    return len(sample.token_ids) if unit == "tokens" else _text_length(sample.text, unit)


def _text_length(text: str, unit: str) -> int:
    return len(text.split()) if unit == "words" else len(text.strip())
