"""What decides a stage's result, and what does not: a run may be resumed with other places, not with other inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlft_core.config.load import parse_recipe
from services.pipeline.record import fingerprints


def content() -> dict[str, Any]:
    """sft -> reward_model -> ppo with a critic that starts as it -> evaluate."""
    reward = {"type": "reward_model"}
    critic = {"type": "gae", "critic": {"type": "model", "start_from": "reward_model"}}
    return {
        "data": {"train": "rows.jsonl", "validation": 2, "test": 2},
        "stages": [
            {"type": "sft"},
            {"type": "reward_model"},
            {"type": "ppo", "rewards": [reward], "advantage": critic},
            {"type": "evaluate", "systems": {"mle": "sft", "rl": "ppo"}, "rewards": [reward]},
        ],
    }


def prints(base: Path, *overrides: str) -> dict[str, str]:
    (base / "rows.jsonl").write_text(
        "".join(json.dumps({"input": f"i{k}", "output": f"o{k}"}) + "\n" for k in range(9))
    )
    return fingerprints(parse_recipe(content(), overrides, source="test"), "base-model", base)


@pytest.mark.parametrize(
    "override, changed",
    [
        ("stages.sft.num_steps=7", {"sft", "reward_model", "ppo", "evaluate"}),
        ("stages.reward_model.margin=.5", {"reward_model", "ppo", "evaluate"}),
        ("stages.reward_model.negatives_per_row=2", {"reward_model", "ppo", "evaluate"}),
        ("stages.ppo.rewards.0.clip=3", {"ppo", "evaluate"}),
        ("stages.ppo.num_steps=7", {"ppo", "evaluate"}),
        ("stages.evaluate.temperature=1", {"evaluate"}),
        ("stages.ppo.rewards.0.num_actors=4", set()),
        ("stages.ppo.rewards.0.gpus_per_actor=.5", set()),
        ("stages.reward_model.rollout.num_engines=2", set()),
        ("stages.reward_model.learner.num_ranks=2", set()),
        ("stages.ppo.num_scorers=3", set()),
    ],
)
def test_a_change_reaches_the_stages_that_depend_on_it(tmp_path: Path, override: str, changed: set[str]) -> None:
    before, after = prints(tmp_path), prints(tmp_path, override)
    assert {name for name in before if before[name] != after[name]} == changed
