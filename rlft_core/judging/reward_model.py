"""A reward model as a judge: the answer with the higher reward is the better one. It knows no order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlft_core.config.rewards import RewardModelConfig
from rlft_core.errors import JudgeError
from rlft_core.judging.protocol import TIE, Answer, Comparison, Verdict
from rlft_core.rewards.protocol import Sample, TokenRewards
from rlft_core.rewards.reward_model import RewardModelReward
from rlft_core.types import Row

_MOST = 700.0  # exp() of more overflows


@dataclass(frozen=True, slots=True)
class RewardModelJudge:
    """Probabilities by Bradley-Terry: sigma of the difference of the rewards."""

    reward: RewardModelReward

    @classmethod
    def load(cls, folder: str) -> RewardModelJudge:
        """A folder that a reward-model stage wrote. Raises ModelError or ConfigError."""
        return cls(RewardModelReward.from_config(RewardModelConfig(model=folder)))

    @property
    def num_truncated(self) -> int:
        """0: a reward model is given whole texts."""
        return 0

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        different = [pair for pair in comparisons if pair.a != pair.b]
        samples = {
            _key(pair.row, answer): _sample(pair.row, answer) for pair in different for answer in (pair.a, pair.b)
        }
        values: dict[tuple[str, Answer], float | TokenRewards] = dict(
            zip(samples, self.reward(list(samples.values())), strict=True)
        )
        found = []
        for pair in comparisons:
            if pair.a == pair.b:
                found.append(TIE)
                continue
            gap = _value(values[_key(pair.row, pair.a)]) - _value(values[_key(pair.row, pair.b)])
            if math.isnan(gap):
                raise JudgeError(
                    f"row '{pair.row.id}': the reward model gave a score that is no number; its weights are broken"
                )
            likely = 1.0 / (1.0 + math.exp(-max(-_MOST, min(_MOST, gap))))
            found.append(Verdict((likely, 1.0 - likely), (likely, 1.0 - likely)))
        return found


def _key(row: Row, answer: Answer) -> tuple[str, Answer]:
    return row.id, answer


def _sample(row: Row, answer: Answer) -> Sample:
    return Sample(row, answer.text, np.zeros(0, np.int32), "stop" if answer.ended else "length")


def _value(found: float | TokenRewards) -> float:
    return found.value if isinstance(found, TokenRewards) else found
