"""Small run folders for the viewer's tests: what runs really leave, a few lines of each."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlft_core.config.load import parse_recipe

HOSTILE = "</p><script>alert('x')</script> & \"quoted\""


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def recipe_of(
    name: str, stages: Sequence[Mapping[str, Any]], *, model: str = "some/model", seed: int = 0
) -> dict[str, Any]:
    """A recipe as a run writes it down."""
    recipe = parse_recipe(
        {
            "name": name,
            "seed": seed,
            "model": {"name": model},
            "data": {"train": "data/rows.jsonl", "validation": 5, "test": 5},
            "stages": list(stages),
        }
    )
    content: dict[str, Any] = recipe.model_dump(mode="json")
    return content


def record(folder: Path, stage: str, kind: str, *, done: bool = True, seconds: float = 61.0) -> None:
    write(
        folder / "stages" / stage / "stage.json",
        {"name": stage, "type": kind, "fingerprint": "f", "done": done, "seconds": seconds},
    )


def estimate(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.02, "n": 40}


def policy_run(runs: Path, name: str, *, num_steps: int = 20, model: str = "some/model", seed: int = 0) -> Path:
    """A finished run: sft, reward model, ppo and an evaluation; its samples have hostile text and token rewards."""
    folder = runs / name
    stages = [
        {"type": "sft", "num_steps": 5},
        {"type": "reward_model", "num_steps": 5},
        {"type": "ppo", "num_steps": num_steps, "rewards": [{"type": "reward_model"}]},
        {"type": "evaluate", "systems": {"base": "base", "rl": "ppo"}},
    ]
    write(folder / "recipe.resolved.json", recipe_of(name, stages, model=model, seed=seed))
    for stage, kind in (("sft", "sft"), ("reward_model", "reward_model"), ("ppo", "ppo"), ("evaluate", "evaluate")):
        record(folder, stage, kind)
    rows = [{"stage": "sft", "step": step, "time": 1.0, "loss/mean": 3.0 - step / 10} for step in range(5)]
    rows += [
        {"stage": "ppo", "step": step, "time": 2.0, "reward/mean": step / 10, "kl/mean": 0.01, "policy/entropy": 2.0}
        for step in range(num_steps)
    ]
    write_lines(folder / "metrics.jsonl", rows)
    write_lines(folder / "samples.jsonl", [sample(step, k) for step in (0, 10) for k in range(6)])
    write_lines(
        folder / "stages" / "ppo" / "watch-outputs.jsonl",
        [
            {
                "stage": "ppo",
                "step": step,
                "id": "row-0",
                "output": f"said {step} {HOSTILE}",
                "ended": True,
                "reward": step / 4,
            }
            for step in (0, 10, 20)
        ],
    )
    write(
        folder / "summary.json",
        {
            "name": name,
            "evaluation": {"base": {"rouge1": estimate(0.3)}, "rl": {"rouge1": estimate(0.4)}},
            "differences": {"rl-base": {"rouge1": estimate(0.1)}},
            "seconds": {"ppo": 61.0},
            "stages": [{"name": "evaluate", "type": "evaluate", "done": True, "systems": ["base", "rl"]}],
        },
    )
    write_lines(
        folder / "stages" / "evaluate" / "outputs.jsonl",
        [{"id": "row-0", "input": "asked", "reference": "wanted", "outputs": {"base": "b", "rl": "r"}, "metrics": {}}],
    )
    old = time.time() - 7200
    for path in folder.rglob("*.json*"):
        os.utime(path, (old, old))
    return folder


def sample(step: int, k: int) -> dict[str, Any]:
    """Two prompts, each with three samples; the judge's share of wins grows with k."""
    reward = k / 2 - 1
    return {
        "stage": "ppo",
        "step": step,
        "id": f"row-{k % 2}",
        "prompt": f"prompt {k % 2} {HOSTILE}",
        "output": f"out{k} {HOSTILE}",
        "reference": "reference",
        "reward": reward,
        "breakdown": {"judge": k / 8, "judge/agreement": 0.6, "judge/first": 0.55, "judge/ties": 0.1, "rules": 1.0},
        "finish_reason": "length" if k == 5 else "stop",
        "skipped": None,
        "tokens": [{"text": "out", "reward": reward, "parts": {}}, {"text": HOSTILE, "reward": -reward, "parts": {}}],
    }


def working_run(runs: Path, name: str = "live", *, state: str = "running", heard_s: float | None = None) -> Path:
    """A run with a heartbeat."""
    folder = runs / name
    stages = [{"type": "sft", "num_steps": 50}, {"type": "ppo", "num_steps": 40, "rewards": [{"type": "rouge"}]}]
    write(folder / "recipe.resolved.json", recipe_of(name, stages))
    record(folder, "sft", "sft")
    record(folder, "ppo", "ppo", done=False)
    write_lines(folder / "metrics.jsonl", [{"stage": "ppo", "step": k, "reward/mean": k / 10} for k in range(12)])
    write(
        folder / "status.json",
        {
            "run": name,
            "state": state,
            "pid": 4242,
            "host": "node-a",
            "time": time.time() if heard_s is None else heard_s,
            "started": time.time() - 60,
            "stage": "ppo",
            "stage_type": "ppo",
            "stages": ["sft", "ppo"],
            "step": 12,
            "num_steps": 40,
            "eta_s": 125.0,
            "metrics": {},
            "actors": [{"name": "rollout-0", "kind": "engine", "state": "HEALTHY", "node": "node-b", "pid": 77}],
            "scalable": True,
            "error": None,
            "notices": [f"engine rollout-1 was restarted {HOSTILE}"],
        },
    )
    return folder
