"""Names and sums of the numbers a run reports. Imports no torch and writes no file.

A metric row maps slash-paths to finite numbers. The part before the slash is the group, a trailing unit is a suffix:

    reward/mean  reward/std  reward/<reward's name>       one value for each completion, before KL shaping
    kl/mean  kl/coefficient                               per token, against the reference
    policy/entropy  policy/clip_fraction  policy/loss     per token
    critic/explained_variance  critic/loss                absent when the recipe has no critic
    loss/mean  loss/validation                            supervised stages, nats per token; reward models, nats per pair
    reward/<judge>/agreement  .../first  .../ties         judges: both orders agree; what stands first is given; no winner
    pairs/accuracy  pairs/gap  pairs/count  pairs/ties    reward models: the reference scored higher, and by how much;
                                                          preferences: the preferred text gained more; prompts without a pair
    tokens/generated  tokens/completion_mean              of the step; of one completion
    sync/seconds  sync/bytes  sync/probe                  the probe is mean |log-prob difference|, nats
    time/<phase>_s  time/step_s  time/coordination_share  written by the step's clock

A mean over a step is always `sum / count` of the whole step: parts (micro-batches, ranks) add up their sums and their
counts and divide once, so that the split into parts cannot change the number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

MetricRow: TypeAlias = Mapping[str, float]


@dataclass(slots=True)
class Accumulator:
    """Additive sums: name -> (sum, count). Filled by one micro-batch after the other, then merged over ranks."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, total: float, count: float = 1.0) -> None:
        """Add a sum over `count` things (tokens, completions, rows). A count of 0 adds nothing to the mean."""
        self.sums[name] = self.sums.get(name, 0.0) + float(total)
        self.counts[name] = self.counts.get(name, 0.0) + float(count)

    def means(self) -> dict[str, float]:
        """`sum / count` by name, sorted. A name that counted nothing is left out: its mean does not exist."""
        return {name: self.sums[name] / self.counts[name] for name in sorted(self.sums) if self.counts[name] != 0}


def merge(parts: Iterable[Accumulator]) -> Accumulator:
    """The sums of all parts as one new accumulator. A part may lack names that another one has."""
    whole = Accumulator()
    for part in parts:
        for name, total in part.sums.items():
            whole.add(name, total, part.counts[name])
    return whole


def distribution(values: Iterable[float]) -> dict[str, float]:
    """`mean`, population `std`, `min` and `max` of the values; nothing at all for no values."""
    numbers = [float(value) for value in values]
    if not numbers:
        return {}
    mean = math.fsum(numbers) / len(numbers)
    variance = math.fsum((number - mean) ** 2 for number in numbers) / len(numbers)
    return {"mean": mean, "std": math.sqrt(variance), "min": min(numbers), "max": max(numbers)}


def flatten(nested: Mapping[str, object], prefix: str = "") -> dict[str, float]:
    """Nested mappings as slash-paths: `{"reward": {"mean": 1}}` -> `{"reward/mean": 1.0}`.

    Raises TypeError for a leaf that is not a number, naming its path.
    """
    flat: dict[str, float] = {}
    for key, value in nested.items():
        name = f"{prefix}/{key}" if prefix else key
        if isinstance(value, Mapping):
            flat.update(flatten(value, name))
        elif isinstance(value, int | float):
            flat[name] = float(value)
        else:
            raise TypeError(f"metric {name!r} is {value!r}, not a number")
    return flat
