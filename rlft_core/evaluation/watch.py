"""Is the reward being gamed? Looks at the same validation rows, compared row by row with the first look.

A look is an alarm when the reward rose since the first one while a metric that nobody rewards got worse: by more than its
threshold, and so that the paired 95 % interval of the change excludes 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlft_core.config.watch import WatchConfig
from rlft_core.evaluation.bootstrap import Interval, interval, paired_difference


@dataclass(frozen=True, slots=True)
class Look:
    """What the policy of a step gave on N rows: `rewards` [N] and each metric [N], in the order of the rows."""

    step: int
    rewards: tuple[float, ...]
    metrics: Mapping[str, tuple[float, ...]]

    @property
    def reward(self) -> float:
        """The mean reward."""
        return float(np.mean(self.rewards))

    def mean(self, metric: str) -> float:
        """The mean of a metric."""
        return float(np.mean(self.metrics[metric]))

    def as_dict(self, alarms: Sequence[str], *, best: bool) -> dict[str, Any]:
        """For a line of watch.jsonl: means with intervals for people, values for comparing later looks with this one."""
        return {
            "step": self.step,
            "reward": self.reward,
            "metrics": {name: interval(values).as_dict() for name, values in self.metrics.items()},
            "alarms": list(alarms),
            "best": best,
            "values": {"rewards": list(self.rewards), "metrics": {n: list(v) for n, v in self.metrics.items()}},
        }

    @staticmethod
    def from_dict(line: Mapping[str, Any]) -> Look:
        """Inverse of `as_dict`."""
        values = line["values"]
        return Look(line["step"], tuple(values["rewards"]), {n: tuple(v) for n, v in values["metrics"].items()})


def watched(config: WatchConfig) -> tuple[str, ...]:
    """The metrics to measure: those that may raise an alarm, the one that checkpoints are compared by, and the length."""
    return tuple(dict.fromkeys([*config.falls, *config.rises, config.best_by, "num_words"]))


def alarms(first: Look, now: Look, config: WatchConfig, *, relative: bool = False) -> tuple[str, ...]:
    """What is wrong with `now`, in words; nothing as long as the reward has not risen.

    `relative`: it only compares samples of one prompt with each other. A look has one of each, so it cannot rise here, and an
    alarm does not wait for that.
    """
    if now.reward <= first.reward and not relative:
        return ()
    rose = f"the reward rose from {first.reward:.3f} to {now.reward:.3f}"
    if relative:
        rose = "samples are only compared with each other"
    found = []
    for metric, limit in config.falls.items():
        change = paired_difference(now.metrics[metric], first.metrics[metric])
        if change.mean < -limit and change.high < 0:
            found.append(f"{rose}, but {metric} fell by {_told(change)}, more than {limit:g}")
    for metric, limit in config.rises.items():
        change = paired_difference(now.metrics[metric], first.metrics[metric])
        if change.mean > limit and change.low > 0:
            found.append(f"{rose}, but {metric} rose by {_told(change)}, more than {limit:g}")
    return tuple(found)


def best_of(looks: Sequence[Look], metric: str) -> Look:
    """The look with the highest mean of a metric; of equals the earliest. Raises ValueError for no looks."""
    return max(looks, key=lambda look: (look.mean(metric), -look.step))


def _told(change: Interval) -> str:
    low, high = sorted((abs(change.low), abs(change.high)))
    return f"{abs(change.mean):.3f} [{low:.3f}, {high:.3f}]"
