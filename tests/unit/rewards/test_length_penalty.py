"""The length penalty: its three forms on literal numbers, what is counted, and what is wanted."""

from __future__ import annotations

import numpy as np
import pytest

from rlft_core.config.rewards import LengthPenaltyConfig
from rlft_core.errors import RewardError
from rlft_core.rewards.build import build_rewards
from rlft_core.rewards.length import LengthPenaltyReward, length_penalty
from rlft_core.rewards.protocol import Sample
from rlft_core.types import Row


def sample(text: str, *, output: str = "one two three", tokens: int = 4) -> Sample:
    return Sample(Row("r1", "some input", output), text, np.arange(tokens, dtype=np.int32), "stop")


@pytest.mark.parametrize(
    "length, form, wanted, tolerance, cap, expected",
    [
        (10, "linear", 10, 2, None, 0.0),
        (12, "linear", 10, 2, None, 0.0),
        (13, "linear", 10, 2, None, -0.25),
        (7, "linear", 10, 2, None, -0.25),
        (0, "linear", 10, 2, None, -2.0),
        (30, "linear", 10, 2, 3.0, -3.0),
        (30, "linear", 10, 2, None, -4.5),
        (13, "quadratic", 10, 2, None, -0.0625),
        (18, "quadratic", 10, 2, None, -2.25),
        (18, "quadratic", 10, 2, 1.5, -1.5),
        (18, "count", 10, 2, None, -4.5),
        (0, "count", 10, 2, None, 0.0),
        (18, "count", 10, 2, 1.0, -1.0),
    ],
)
def test_literal_values(
    length: int, form: str, wanted: int, tolerance: int, cap: float | None, expected: float
) -> None:
    found = length_penalty(length, form=form, wanted=wanted, tolerance=tolerance, scale=4.0, cap=cap)  # type: ignore[arg-type]
    assert found == expected
    assert str(found) != "-0.0"


def test_an_immense_penalty_is_cut_at_its_cap() -> None:
    assert length_penalty(10**6, form="quadratic", scale=1e-300, cap=2.0) == -2.0


@pytest.mark.parametrize(
    "settings, text, expected",
    [
        ({"tolerance": 0, "scale": 2.0}, " one  two three four five ", (-1.0, {"words": 5.0})),
        ({"tolerance": 0, "scale": 2.0}, "", (-1.5, {"words": 0.0})),
        ({"tolerance": 0, "scale": 2.0, "target": 5}, "one", (-2.0, {"words": 1.0})),
        ({"unit": "characters", "tolerance": 3, "scale": 1.0}, " onetwo ", (-4.0, {"characters": 6.0})),
        ({"unit": "tokens", "target": 2, "tolerance": 0, "scale": 1.0}, "x", (-2.0, {"tokens": 4.0})),
        ({"unit": "tokens", "form": "count", "scale": 8.0}, "x", (-0.5, {"tokens": 4.0})),
    ],
)
def test_the_reward_counts_what_is_asked(
    settings: dict[str, object], text: str, expected: tuple[float, dict[str, float]]
) -> None:
    config = LengthPenaltyConfig.model_validate({"type": "length_penalty"} | settings)
    assert LengthPenaltyReward(config)([sample(text)]) == [expected]


def test_a_blank_reference_is_an_error_only_where_it_is_read() -> None:
    blank = sample("one", output=" ")
    with pytest.raises(RewardError, match="row 'r1' has an empty output"):
        LengthPenaltyReward(LengthPenaltyConfig())([blank])
    assert LengthPenaltyReward(LengthPenaltyConfig(form="count"))([blank]) == [(-0.2, {"words": 1.0})]
    assert LengthPenaltyReward(LengthPenaltyConfig(target=1))([blank]) == [(0.0, {"words": 1.0})]


def test_a_recipe_builds_it() -> None:
    [built] = build_rewards([LengthPenaltyConfig(name="short", weight=0.5)])
    assert (built.reward.name, built.weight) == ("short", 0.5)
