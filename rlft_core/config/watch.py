"""The reward-hacking watch of a PPO stage: what is measured that nobody rewards, and when that is an alarm."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from rlft_core.config.base import Strict

WatchedMetric = Literal[
    "rouge1",
    "rouge2",
    "rougeL",
    "similarity_to_reference",
    "repetition_share",
    "copy_rate",
    "ended_by_eos",
    "num_words",
]


class WatchConfig(Strict):
    """Now and then the policy answers validation rows greedily and is measured by metrics that take no part in the reward.

    An alarm: the reward on these rows rose since the start while a metric got worse by more than its threshold, and the
    paired 95 % interval of that change excludes 0."""

    every: PositiveInt = 10
    """Steps between two looks; the first is before the first update, the last after the last."""
    rows: PositiveInt = 64
    """Validation rows to answer, the first ones."""
    falls: dict[WatchedMetric, NonNegativeFloat] = Field(default={"rougeL": 0.02, "similarity_to_reference": 0.02})
    """Alarm when one of these falls by more."""
    rises: dict[WatchedMetric, NonNegativeFloat] = Field(default={"repetition_share": 0.05})
    """Alarm when one of these rises by more."""
    best_by: WatchedMetric = "rougeL"
    """What `keep_best` and `early_stop` compare checkpoints by; higher is better."""
    keep_best: bool = False
    """The stage's model is the one that was best on the validation rows, not the last one."""
    early_stop: bool = False
    """Stop at the first alarm and keep the best model so far."""
