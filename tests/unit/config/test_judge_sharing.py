"""Whose engines a judge uses: its own, or those that hold what it is."""

from __future__ import annotations

from typing import Any

import pytest

from rlft_core.config.load import parse_recipe
from rlft_core.config.online import OnlineStage
from rlft_core.plan.copies import SEPARATE, copies_note, model_copies
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
        ({}, {}, "policy", True),
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


@pytest.mark.parametrize(
    ("model", "stage", "expected", "told"),
    [
        # Self-judging with an adapter: one network learns and is its own reference, one samples and judges.
        ({"lora": {}}, {"type": "online_dpo"}, 2, "'judge' judges on the rollout engines and takes none"),
        ({}, {"type": "online_dpo"}, 4, "the learner's policy, its reference, engines, judge 'judge'"),
        ({}, {"type": "online_dpo", "sample_from": "start"}, 3, "takes none. PPO with a reward model"),
        ({}, {"type": "online_dpo", "rollout": {"num_engines": 3}}, 6, "3 engines"),
    ],
)
def test_copies_are_counted(model: dict[str, Any], stage: dict[str, Any], expected: int, told: str) -> None:
    recipe = parse_recipe({"model": model, "data": {"train": "rows.jsonl"}, "stages": [{"type": "sft"}, stage]})
    online = recipe.stages[1]
    assert isinstance(online, OnlineStage)
    assert sum(model_copies(recipe, online).values()) == expected
    note = copies_note(recipe, online)
    assert note is not None
    assert f"holds {expected} copies" in note
    assert told in note
    assert note.endswith("holds 7" if "rollout" in stage else "holds 5")


def test_ppo_with_a_reward_model_and_a_critic_is_the_measure() -> None:
    critic = {"type": "gae", "critic": {"type": "model"}}
    content = {"type": "ppo", "advantage": critic, "rewards": [{"type": "reward_model", "model": "some/folder"}]}
    online = parse_recipe({"data": {"train": "rows.jsonl"}, "stages": [content]}).stages[0]
    assert isinstance(online, OnlineStage)
    recipe = parse_recipe({"data": {"train": "rows.jsonl"}, "stages": [content]})
    assert sum(model_copies(recipe, online).values()) == SEPARATE
    assert copies_note(recipe, online) is None
