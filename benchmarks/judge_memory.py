"""Memory of a step with a judge, by who holds it: self-judging with an adapter, with all weights, and PPO with a reward model
and a critic of their own.

    python -m benchmarks.judge_memory --reward-model runs/last-mile/stages/reward_model/model [--out FILE]

Each variant is a real run of two steps on the default model, from nothing. Twice a second the memory that a process shares with
nobody (unique set size) is read of every process that the run started; what is told is the peak of each kind of process. The
copies are those that `rlft check` counts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import commit, hardware
from benchmarks.settings import ROOT, SYSTEM
from rlft_core.config.load import parse_recipe
from rlft_core.config.online import OnlineStage
from rlft_core.plan.copies import model_copies

EVERY_S = 0.5
MIB = 2**20
SIZES: dict[str, Any] = {
    "num_steps": 2,
    "prompts_per_step": 8,
    "samples_per_prompt": 2,
    "sampling": {"max_tokens": 24},
    "rollout": {"max_sequences": 32},
}
JUDGED: dict[str, Any] = {
    "type": "online_dpo",
    "rewards": [{"type": "judge", "rollout": {"max_sequences": 32}}],
    **SIZES,
}


def variants(reward_model: str) -> dict[str, dict[str, Any]]:
    """Model section and stage of each."""
    reward = {"type": "reward_model", "model": reward_model}
    critic = {"type": "gae", "critic": {"type": "model"}}
    return {
        "self-judging, adapter": {"model": {"lora": {"rank": 16}}, "stages": [JUDGED]},
        "self-judging, all weights": {"stages": [JUDGED]},
        "self-judging, off-policy": {"stages": [JUDGED | {"sample_from": "start"}]},
        "PPO, reward model and critic": {
            "stages": [{"type": "ppo", "rewards": [reward], "advantage": critic, "kl": {"coefficient": 0.05}, **SIZES}]
        },
    }


def content(variant: dict[str, Any]) -> dict[str, Any]:
    """A recipe on the bundled rows."""
    data = {
        "train": "data/synopses/train.jsonl",
        "input_field": "description",
        "output_field": "synopsis",
        "id_field": "package",
        "prompt": {"system": SYSTEM, "template": "{description}"},
        "max_prompt_tokens": 256,
    }
    return {"name": "memory", "data": data, **variant}


def peaks(recipe: dict[str, Any]) -> dict[str, int]:
    """Peak of the unique memory, in bytes, of each kind of actor, summed over its processes."""
    found: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(json.dumps(recipe))
        command = [sys.executable, "-m", "services.cli.main", "run", str(path), "--runs-dir", folder]
        with (Path(folder) / "log.txt").open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
            while process.poll() is None:
                for kind, size in _now(psutil.Process(process.pid)).items():
                    found[kind] = max(found.get(kind, 0), size)
                time.sleep(EVERY_S)
        if process.returncode:
            raise RuntimeError((Path(folder) / "log.txt").read_text()[-3000:])
    return found


def _now(root: psutil.Process) -> dict[str, int]:
    found: dict[str, int] = {}
    for process in root.children(recursive=True):
        try:
            kind = _kind(process.cmdline())
            if kind is not None:
                found[kind] = found.get(kind, 0) + process.memory_full_info().uss
        except psutil.Error:  # it has just ended
            continue
    return found


def _kind(command: list[str]) -> str | None:
    """The actor's class, as Ray titles its process."""
    title = command[0] if command else ""
    return title.removeprefix("ray::").split(".")[0].split("(")[0] if title.startswith("ray::") else None


def main() -> None:
    """Print a table, and write all numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward-model", required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": hardware(), "commit": commit(), "variants": {}}
    for name, variant in variants(str(Path(options.reward_model).absolute())).items():
        recipe = content(variant)
        parsed = parse_recipe(recipe)
        stage = parsed.stages[0]
        assert isinstance(stage, OnlineStage)
        copies, memory = model_copies(parsed, stage), peaks(recipe)
        result["variants"][name] = {"copies": copies, "unique_bytes": memory}
        parts = ", ".join(f"{kind} {size / MIB:.0f}" for kind, size in sorted(memory.items()))
        print(f"{name}: {sum(copies.values())} copies; {sum(memory.values()) / MIB:.0f} MiB: {parts}", flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
