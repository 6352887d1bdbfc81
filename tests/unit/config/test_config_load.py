"""Reading a recipe: overrides, numbers, anchors, and the recipes that come with rlft."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from rlft_core.config.load import load_recipe, parse_recipe, read_yaml
from rlft_core.config.online import OnlineStage
from rlft_core.config.stages import EvaluateStage, SftStage

ROOT = Path(__file__).resolve().parents[3]


def content() -> dict[str, Any]:
    return {
        "data": {"train": "rows.jsonl"},
        "stages": [
            {"type": "sft", "name": "warm-up"},
            {"type": "ppo", "rewards": [{"type": "rules", "checks": [{"check": "max_chars", "value": 80}]}]},
        ],
    }


def test_overrides_reach_keys_lists_and_sections_that_the_file_leaves_out() -> None:
    recipe = parse_recipe(
        content(),
        [
            "name=other",
            "model.lora.rank=4",
            "stages.warm-up.num_steps=7",
            "stages.1.optimizer.lr=3e-5",
            "stages.ppo.rewards.rules.checks.max_chars.value=60",
            "tracking.sinks=[wandb, mlflow]",
            "stages.ppo.clip.dual=null",
        ],
    )
    sft, ppo = recipe.stages
    assert isinstance(sft, SftStage)
    assert isinstance(ppo, OnlineStage)
    assert (recipe.name, sft.num_steps, ppo.optimizer.lr, ppo.clip.dual) == ("other", 7, 3e-5, None)
    assert recipe.model.lora is not None
    assert recipe.model.lora.rank == 4
    assert recipe.tracking.sinks == ("wandb", "mlflow")
    assert ppo.rewards[0].model_dump()["checks"][0]["value"] == 60


def test_overrides_do_not_change_the_mapping_that_was_given() -> None:
    given = content()
    parse_recipe(given, ["data.train=other.jsonl", "stages.ppo.num_steps=1"])
    assert given == content()


def test_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "numbers.yaml"
    path.write_text("a: 5e-5\nb: 1E3\nc: [2e-1, -3e+2, 1.5e0]\nd: 5e\ne: 1e5x\nf: '5e-5'\n")
    assert read_yaml(path) == {"a": 5e-5, "b": 1000.0, "c": [0.2, -300.0, 1.5], "d": "5e", "e": "1e5x", "f": "5e-5"}


def test_anchors_and_merges_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "anchors.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a\n")
    assert read_yaml(path) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "evidence" / "recipes").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_recipes_of_the_evidence_parse(path: Path) -> None:
    assert load_recipe(path).name == path.stem.replace("_", "-")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_that_come_with_rlft_parse(path: Path) -> None:
    recipe = load_recipe(path)
    *training, evaluate = recipe.stages
    policies = [stage for stage in training if isinstance(stage, SftStage | OnlineStage)]
    assert any(isinstance(stage, OnlineStage) for stage in policies)
    assert isinstance(evaluate, EvaluateStage)
    compared = {*(stage.name for stage in policies), *(recipe.start_of(stage) for stage in policies[1:])}
    assert compared <= set(evaluate.systems.values())


def repeated_defaults(section: BaseModel, place: str) -> list[str]:
    """Keys of a parsed recipe that were given and have the value they would have had anyway."""
    found = []
    for key in sorted(section.model_fields_set - {"type", "check", "kind"}):
        value, default = getattr(section, key), type(section).model_fields[key].get_default(call_default_factory=True)
        if value == default:
            found.append(f"{place}.{key}")
        for index, inner in enumerate(value if isinstance(value, tuple) else (value,)):
            if isinstance(inner, BaseModel):
                found += repeated_defaults(inner, f"{place}.{key}.{index}")
    return found


def test_the_quickstart_says_only_what_differs_from_the_defaults() -> None:
    assert repeated_defaults(load_recipe(ROOT / "recipes" / "quickstart.yaml"), "recipe") == []
    assert repeated_defaults(parse_recipe(content(), ["seed=0"]), "recipe") == ["recipe.seed"]
