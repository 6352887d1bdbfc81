"""Whose engines a judge uses: its own, or those that hold what it is."""

from __future__ import annotations

from typing import Any

import pytest

from rlft_core.config.load import parse_recipe
from rlft_core.config.online import OnlineStage
from rlft_core.plan.stages import own_judges


@pytest.mark.parametrize(
    ("model", "keys", "judge", "shared"),
    [
        ({}, {}, "start", False),  # full weights: the policy's engines change
        ({"lora": {}}, {}, "start", True),  # the adapter off
        ({"lora": {}}, {}, "base", False),  # another model than the start
        ({"lora": {}}, {}, "sft", True),  # the start by its name
        ({}, {"sample_from": "start"}, "start", True),  # engines that keep the start
        ({}, {"sample_from": "start"}, "base", False),
    ],
)
def test_a_judge_needs_engines_of_its_own_unless_the_rollout_engines_hold_it(
    model: dict[str, Any], keys: dict[str, Any], judge: str, shared: bool
) -> None:
    stage = {"type": "online_dpo", "rewards": [{"type": "judge", "model": judge}], **keys}
    recipe = parse_recipe({"model": model, "data": {"train": "rows.jsonl"}, "stages": [{"type": "sft"}, stage]})
    online = recipe.stages[1]
    assert isinstance(online, OnlineStage)
    assert [recipe.shares_engines(online, one) for one in online.judges] == [shared]
    assert (own_judges(recipe, online) == []) is shared
