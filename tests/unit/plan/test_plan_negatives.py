"""What a reward-model stage needs of the rows, found before an hour is spent on the stage before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlft_core.errors import ConfigError, DataError, ModelError
from rlft_core.plan import make_plan
from tests.unit.plan.parts import LAPTOP, recipe_in, write_rows


def stages(*negatives: dict[str, Any], **reward: Any) -> list[dict[str, Any]]:
    kinds = {"negatives": list(negatives)} if negatives else {}
    rewards = [{"type": "reward_model", "num_actors": 2, **reward}]
    return [
        {"type": "sft"},
        {"type": "reward_model", "num_steps": 10, **kinds},
        {"type": "ppo", "num_steps": 5, "rewards": rewards},
        {"type": "evaluate", "systems": {"mle": "sft", "rl": "ppo"}},
    ]


def told(base: Path, content: list[dict[str, Any]], error: type[Exception]) -> str:
    with pytest.raises(error) as caught:
        make_plan(recipe_in(base, stages=content), base_dir=base, available=LAPTOP, encode=False)
    return str(caught.value)


def test_the_plan_counts_texts_and_the_reward_models_actors(base: Path) -> None:
    plan = make_plan(recipe_in(base, stages=stages()), base_dir=base, available=LAPTOP, encode=False)
    _, model, ppo, _ = plan.stages
    assert (model.type, model.starts_from) == ("reward_model", ("sft",))
    assert model.num_samples == 10 * 8 * 5  # a reference and four negatives each
    assert ppo.starts_from == ("sft",)
    assert [(actor.role, actor.count) for actor in ppo.actors][-1] == ("reward_model", 2)


def test_rows_that_all_say_the_same_have_nothing_irrelevant(base: Path) -> None:
    write_rows(base / "train.jsonl", 5, first=50, output="always this")
    message = told(base, stages({"kind": "irrelevant"}), DataError)
    assert message.startswith("stages.reward_model.negatives: ")
    assert "irrelevant" in message


def test_a_users_kind_that_is_not_there(base: Path) -> None:
    message = told(base, stages({"kind": "custom", "name": "mine", "function": "no_such_module:f"}), ConfigError)
    assert message.startswith("stages.reward_model.negatives: ")
    assert "no_such_module" in message


def test_a_folder_that_is_no_reward_model(base: Path) -> None:
    message = told(base, stages(model=str(base / "model")), ModelError)
    assert message.startswith("stages.ppo.rewards: ")
    assert "rlft_reward.json" in message


def test_a_reward_model_without_a_stage(base: Path) -> None:
    content = [stage for stage in stages() if stage["type"] != "reward_model"]
    with pytest.raises(ConfigError, match="needs an earlier stage of type reward_model; there are: none"):
        recipe_in(base, stages=content)


def test_a_watch_needs_validation_rows(base: Path) -> None:
    content = stages()
    content[2]["watch"] = {}
    with pytest.raises(ConfigError, match=r"watch needs data\.validation"):
        recipe_in(base, stages=content)
    content = stages()
    content[0] |= {"keep": "best", "validate_every": 5}
    with pytest.raises(ConfigError, match=r"keep: best needs data\.validation"):
        recipe_in(base, stages=content)


def test_a_label_stands_for_one_system(base: Path) -> None:
    again = {"type": "evaluate", "name": "again", "systems": {"rl": "ppo"}}
    with pytest.raises(ConfigError, match="stage 'evaluate' has a system 'rl' already"):
        recipe_in(base, stages=[*stages(), again])
