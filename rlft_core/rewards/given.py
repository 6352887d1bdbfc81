"""Values that were computed before, in the shape of a reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlft_core.rewards.protocol import Reward, RewardValue, Sample, TokenRewards


@dataclass(frozen=True, slots=True)
class GivenScores:
    """What an actor of its own said of a group's completions. `span`: when it worked on them, since the epoch."""

    values: tuple[RewardValue, ...]
    span: tuple[float, float]


def centered(values: Sequence[RewardValue]) -> list[RewardValue]:
    """A group's rewards of tokens without their mean over all tokens of the group; other rewards, and a group of one, as they
    are. The number that breakdowns show stays."""
    dense = [value.per_token for value in values if isinstance(value, TokenRewards) and value.per_token is not None]
    if len(values) < 2 or not dense:
        return list(values)
    mean = np.concatenate(dense).mean(dtype=np.float64)
    return [
        replace(value, per_token=(value.per_token - mean).astype(np.float32))
        if isinstance(value, TokenRewards) and value.per_token is not None
        else value
        for value in values
    ]


_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class GivenReward:
    """`values` [N] of the N samples that it will be asked for, all at once and in order."""

    label: str
    values: Sequence[RewardValue]

    @property
    def name(self) -> str:
        return self.label

    def __call__(self, samples: Sequence[Sample]) -> Sequence[RewardValue]:
        return self.values


@dataclass(frozen=True, slots=True)
class KnownReward:
    """The values of a reward on samples that were all scored together, so that those of one row shared a prompt."""

    label: str
    values: Mapping[_Key, RewardValue]

    @classmethod
    def of(cls, reward: Reward, samples: Sequence[Sample]) -> KnownReward:
        """Score the samples, equal ones once."""
        distinct = {_key(sample): sample for sample in samples}
        return cls(reward.name, dict(zip(distinct, reward(list(distinct.values())), strict=True)))

    @property
    def name(self) -> str:
        return self.label

    def __call__(self, samples: Sequence[Sample]) -> list[RewardValue]:
        return [self.values[_key(sample)] for sample in samples]


def _key(sample: Sample) -> _Key:
    return sample.row.id, sample.text, sample.finish_reason
