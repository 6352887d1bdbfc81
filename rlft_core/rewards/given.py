"""Values that were computed before, in the shape of a reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlft_core.rewards.protocol import Reward, RewardValue, Sample


@dataclass(frozen=True, slots=True)
class GivenScores:
    """What an actor of its own said of a group's completions. `span`: when it worked on them, since the epoch."""

    values: tuple[RewardValue, ...]
    span: tuple[float, float]


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
