"""The whole PPO step, ours against the peer's: generate, score, update, and give the engine the new weights.

Both sides have the same four models, prompts and sizes, train all weights and use all cores. Ours is a run through Ray,
vLLM and the learner's processes; the peer runs in a process and an environment of its own, after ours has ended.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.measured_run import Steps
from benchmarks.settings import ROOT, Settings, prompts_of_steps, recipe

PEER = ROOT / "benchmarks" / "peer_trl.py"


def ours(steps: Steps, settings: Settings) -> dict[str, Any]:
    """Seconds and samples per second of our step: medians over the measured steps."""
    step_s = steps.median("time/step_s")
    phases = {f"{name}_s": steps.median(f"time/{name}_s") for name in ("sync", "generate", "update", "other")}
    return {
        "step_s": step_s,
        "samples_per_s": settings.samples_per_step / step_s,
        "steps_s": steps.values("time/step_s"),
        **phases,
        "completion_tokens": steps.mean("tokens/completion_mean"),
    }


def peer(settings: Settings, reward_model: Path, python: Path, folder: Path) -> dict[str, Any]:
    """The peer's step on the prompts of our first measured steps. Raises CalledProcessError when it fails."""
    first = settings.warmup_steps
    steps = prompts_of_steps(
        recipe(settings, reward_model, max_lag=0), settings, range(first, first + settings.peer_steps)
    )
    prompts = [ids for step in steps for ids in step for _ in range(settings.samples_per_prompt)]
    folder.mkdir(parents=True, exist_ok=True)
    job, result = folder / "peer.json", folder / "peer-result.json"
    job.write_text(json.dumps({**dataclasses.asdict(settings), "reward_model": str(reward_model), "prompts": prompts}))
    command = [str(python), str(PEER), "--job", str(job), "--out", str(result)]
    subprocess.run(command, check=True, cwd=folder, env=os.environ | {"PYTHONPATH": "", "HF_HUB_OFFLINE": "1"})
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def earlier_peer(results: Path, settings: Settings) -> dict[str, Any]:
    """The newest recorded peer figures of the same settings. Raises FileNotFoundError when there are none."""
    mine = comparable(dataclasses.asdict(settings))
    for path in sorted(results.glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True):
        record = json.loads(path.read_text())
        found = record.get("figures", {}).get("whole_step", {}).get("peer")
        if found and comparable(record["settings"]) == mine and "reused_from" not in found:
            return {**found, "reused_from": path.name}
    raise FileNotFoundError(f"{results} holds no figures of the peer for these settings; run without --reuse-peer")


def comparable(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide how long the peer takes. A model is told by its folder's name."""
    names = ("prompts_per_step", "samples_per_prompt", "max_new_tokens", "learning_rate", "max_length")
    return {"model": Path(settings["model"]).name, **{name: settings[name] for name in names}}
