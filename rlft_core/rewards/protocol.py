"""What a reward is: the sample it sees, the value it gives. Users' own functions get the same `Sample`.

Holds no weights: the task reward is their weighted sum, which `rlft_core.rewards.scoring` makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rlft_core.errors import RewardError
from rlft_core.types import Completion, RolloutGroup, Row


@dataclass(frozen=True, slots=True)
class TokenRewards:
    """A reward for every token: `per_token` [T] float32, one for each of the sample's tokens, and `value`, the one number
    that breakdowns show.

    `per_token` is None where the text is not what the tokens say, so that only the value is known.
    """

    value: float
    per_token: np.ndarray | None


RewardValue = float | tuple[float, Mapping[str, float]] | TokenRewards
"""A number, a number with a named breakdown such as `(0.8, {"one_line": 1.0, "max_chars": 0.0})`, or one for every token."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer to one row: what the engine wrote and how it ended.

    `token_ids` [T] int32 includes the EOS when `finish_reason` is "stop"; `text` has no special tokens.
    """

    row: Row
    text: str
    token_ids: np.ndarray
    finish_reason: str


class Reward(Protocol):
    """Scores samples. A pure function of each sample: a sample's value must not depend on the others."""

    @property
    def name(self) -> str:
        """Name in breakdowns and metrics."""

    def __call__(self, samples: Sequence[Sample]) -> Sequence[RewardValue]:
        """One value for each sample, in order. May raise: `score_group` finds out which sample it was."""


@dataclass(frozen=True, slots=True)
class WeightedReward:
    """A reward and its factor in the sum."""

    reward: Reward
    weight: float


def sample_of(row: Row, completion: Completion) -> Sample:
    """The sample that a reward sees of one completion."""
    return Sample(row, completion.text, completion.token_ids, completion.finish_reason)


def samples_of(group: RolloutGroup) -> tuple[Sample, ...]:
    """The samples of a group, in its order."""
    return tuple(sample_of(group.prompt.row, completion) for completion in group.completions)


def reference_of(sample: Sample) -> str:
    """The row's output. RewardError when it is blank, because nothing can be compared with it."""
    if not sample.row.output.strip():
        raise RewardError(f"row {sample.row.id!r} has an empty output, and this reward compares with it")
    return sample.row.output
