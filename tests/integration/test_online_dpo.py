"""On-policy self-training through the whole pipeline: the loop, the fleet and resuming are those of PPO."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support import (
    LONGEST_RUN_S,
    ROOT,
    finish_run,
    here,
    killed_run,
    metrics_of,
    model_bytes,
    ppo,
    recipe_content,
    recipe_of,
    rows,
    run_ppo_here,
    write_rows,
)
from tests.integration.test_scorers import reward_model_folder

pytestmark = pytest.mark.integration

TEMPLATE = {
    "user": "Task: {context}\nFirst: {response_a}\nSecond: {response_b}\nWhich is better, A or B?",
    "labels": ["A", "B"],
}


def content(model: Path, judge: str = "start") -> dict[str, Any]:
    shared = {key: ppo()[key] for key in ("sampling", "rollout", "checkpoint", "log_samples_every", "optimizer")}
    rewards = [{"type": "judge", "model": judge, "template": "judge.yaml", "rollout": shared["rollout"]}]
    stage = {
        "type": "online_dpo",
        "num_steps": 4,
        "prompts_per_step": 4,
        "rewards": rewards,
        "learner": {"threads_per_rank": 1, "max_row_tokens": 512, "step_deadline_s": 200},
        **shared,
    }
    recipe = recipe_content(model, stage)
    recipe["model"]["max_length"] = 320
    return recipe


def prepared(base: Path, recipe: dict[str, Any]) -> Path:
    base.mkdir(exist_ok=True)
    write_rows(base)
    (base / "judge.yaml").write_text(json.dumps(TEMPLATE))
    (base / "recipe.yaml").write_text(json.dumps(recipe))
    return base


def generated(base: Path, *options: str) -> list[dict[str, Any]]:
    """What `rlft generate` wrote for the model of the run in `base`."""
    command = [sys.executable, "-m", "services.cli.main", "generate", "run", "--out", "answers.jsonl", *options]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=base, env=env, capture_output=True, text=True, timeout=LONGEST_RUN_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return rows(base / "answers.jsonl")


def test_a_killed_run_goes_on_to_the_same_model(tmp_path: Path, tiny_model: Path) -> None:
    whole = prepared(tmp_path / "whole", content(tiny_model))
    finish_run(whole)
    folder = whole / "runs" / "run"
    steps = metrics_of(folder, "online_dpo")
    assert len(steps) == 4
    for step in steps:
        assert step["pairs/count"] + step["pairs/ties"] == 4
        assert step["reward/judge"] == pytest.approx(0.5, abs=1e-6)
    assert sum(step["pairs/count"] for step in steps) > 0
    assert len(rows(folder / "samples.jsonl")) == 4 * 4 * 2
    best = generated(whole, "--best-of", "3", "--rows", "3", "--template", "judge.yaml")
    assert len({row["id"] for row in best}) == 3
    scored = reward_model_folder(tiny_model, tmp_path / "reward")
    (one,) = generated(whole, "--best-of", "3", "--by", str(scored), "--input", "a task of mine")
    assert one["input"] == "a task of mine"
    killed = prepared(tmp_path / "killed", content(tiny_model))
    metrics = killed / "runs" / "run" / "metrics.jsonl"
    killed_run(
        killed,
        lambda: metrics.exists() and sum('"online_dpo"' in line for line in metrics.read_text().splitlines()) >= 3,
    )
    finish_run(killed)
    assert model_bytes(killed / "runs" / "run", "online_dpo") == model_bytes(folder, "online_dpo")


@pytest.mark.usefixtures("cluster")
def test_off_policy_samples_are_the_starts_whatever_was_learned(tmp_path: Path, tiny_model: Path) -> None:
    """Had the engines taken what was learned at the high rate, the two runs would have sampled other texts."""
    texts = []
    for name, lr in (("fast", 0.01), ("slow", 1e-7)):
        recipe = content(tiny_model)
        recipe["stages"][0] |= {"sample_from": "start", "log_samples_every": 1}
        recipe["stages"][0]["optimizer"] = recipe["stages"][0]["optimizer"] | {"lr": lr}
        run = here(prepared(tmp_path / name, recipe), recipe_of(recipe))
        run_ppo_here(run, stage="online_dpo")
        assert all("sync/seconds" not in step for step in metrics_of(run.folder, "online_dpo"))
        texts.append([row["output"] for row in rows(run.folder / "samples.jsonl")])
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 10
