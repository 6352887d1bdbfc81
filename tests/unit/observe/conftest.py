"""A made-up run folder with everything in it, of the size and shape that the quickstart leaves."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

HOSTILE = '</style><script>alert("x")</script> & "quoted" <b>bold</b>'

SYNOPSES = [
    (
        "cnvkit",
        "A command-line toolkit and Python library for detecting copy number variants and alterations genome-wide from "
        "targeted DNA sequencing.",
        "Copy number variant detection from targeted DNA sequencing",
        "A command-line toolkit and Python library for detecting copy number variants and alterations genome-wide",
        "Detect copy number variants and alterations from targeted DNA sequencing",
        "DNA sequencing and copy number variant detection toolkit",
    ),
    (
        "rrdcached",
        "This package contains a daemon that receives updates to existing RRD files, accumulates them and, if enough "
        "have been received or a defined time has passed, writes the updates to the RRD file.",
        "data caching daemon for RRDtool",
        "The one-line synopsis is already quite detailed, so I will keep it as it is:",
        "Demon that writes RRD files",
        "RRD file daemon",
    ),
    (
        "cutemaze",
        "CuteMaze is a simple, top-down game in which mazes are randomly generated.",
        "maze game",
        "CuteMaze is a game of strategy and luck, with a twist.",
        "Simple, top-down game in which mazes are randomly generated",
        "Simple, top-down maze game",
    ),
    (
        "glimpse",
        "Glimpse is a powerful indexing and query system that lets you search through all your files very quickly.",
        "search quickly through entire file system",
        "Glimpse is a powerful tool for searching and indexing files.",
        "Glimpse for Unix",
        "Indexing and query system for Unix files",
    ),
    ("xss-row", f"Text that must stay text: {HOSTILE}", HOSTILE, HOSTILE, "", "Plain words"),
    (
        "libfoo-dev",
        "Development headers of a library that parses configuration files in several formats and validates them.",
        "configuration parser library (development files)",
        "This package contains the development headers.",
        "Development headers for configuration parsing",
        "Configuration file parser (development headers)",
    ),
]


def _estimate(mean: float, half: float, n: int = 128) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def _wave(step: int, start: float, end: float, noise: float, rng: random.Random, num_steps: int) -> float:
    return end + (start - end) * math.exp(-3.0 * step / num_steps) + rng.gauss(0.0, noise)


def _metric_rows(rng: random.Random) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for step in range(60):
        rows.append(
            {
                "stage": "sft",
                "step": step,
                "time": 1.78e9 + 2 * step,
                "loss/mean": _wave(step, 3.9, 2.2, 0.12, rng, 60),
                "optimizer/lr": 5e-5 * min(1.0, (step + 1) / 10) * (1 - 0.9 * step / 60),
                "optimizer/grad_norm": 2 + rng.random(),
                "tokens/generated": 0.0,
                "time/update_s": 2.1 + rng.random() / 5,
                "time/data_s": 0.02,
                "time/other_s": 0.01,
                "time/step_s": 2.3,
            }
        )
    for step in range(43):
        phases = {
            "generate": 0.05,
            "score": 1.6 + rng.random() / 5,
            "sync": 0.25 + rng.random() / 20,
            "update": 3.2 + rng.random() / 2 + (2.4 if step < 2 else 0.0),
            "other": 0.04,
        }
        total = sum(phases.values())
        tokens = 64 * _wave(step, 10.3, 8.7, 0.3, rng, 43)
        rows.append(
            {
                "stage": "ppo",
                "step": step,
                "time": 1.78e9 + 200 + 6 * step,
                "reward/mean": _wave(step, 0.66, 0.735, 0.022, rng, 43),
                "reward/std": 0.15,
                "reward/min": 0.1,
                "reward/max": 0.97,
                "reward/rules": _wave(step, 0.83, 0.95, 0.02, rng, 43),
                "reward/rules/one_line": _wave(step, 0.99, 1.0, 0.003, rng, 43),
                "reward/rules/no_name": _wave(step, 0.83, 0.93, 0.02, rng, 43),
                "reward/rules/ends_properly": _wave(step, 0.96, 1.0, 0.01, rng, 43),
                "reward/embedding_similarity": _wave(step, 0.53, 0.6, 0.03, rng, 43),
                "reward/repetition": max(0.0, _wave(step, 0.03, 0.015, 0.006, rng, 43)),
                "kl/mean": abs(_wave(step, 0.0, 0.062, 0.006, rng, 43)),
                "kl/coefficient": 0.02,
                "policy/entropy": _wave(step, 3.0, 2.25, 0.08, rng, 43),
                "policy/clip_fraction": abs(_wave(step, 0.0, 0.04, 0.008, rng, 43)),
                "policy/loss": rng.gauss(0, 0.01),
                "critic/explained_variance": _wave(step, -0.4, 0.18, 0.06, rng, 43),
                "tokens/generated": tokens,
                "tokens/completion_mean": tokens / 64,
                "tokens/per_second": tokens / total,
                "sync/probe": 0.04 + rng.random() / 100,
                "sync/bytes": 2.69e8,
                "optimizer/lr": 2e-5 * (1 - 0.9 * step / 43),
                "time/coordination_share": 0.021,
                "time/step_s": total,
            }
            | {f"time/{name}_s": value for name, value in phases.items()}
        )
    return rows


def _sample_rows(rng: random.Random) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for step in range(0, 43, 5):
        for index in range(8):
            name, text, reference, base, mle, rl = SYNOPSES[(step + index) % len(SYNOPSES)]
            rows.append(
                {
                    "stage": "ppo",
                    "step": step,
                    "id": name,
                    "prompt": text,
                    "output": (mle, rl)[step > 20] or base,
                    "reference": reference,
                    "reward": rng.uniform(0.3, 0.9),
                    "breakdown": {
                        "rules": rng.uniform(0.6, 1),
                        "rules/one_line": 1.0,
                        "embedding_similarity": rng.uniform(0.3, 0.8),
                    },
                    "finish_reason": rng.choice(["stop", "stop", "length"]),
                    "skipped": None,
                }
            )
    return rows


def _summary() -> dict[str, object]:
    means = {
        "rougeL": (0.186, 0.336, 0.356, 0.037),
        "rouge1": (0.214, 0.376, 0.405, 0.039),
        "rouge2": (0.084, 0.152, 0.168, 0.04),
        "rules/all": (0.012, 0.797, 0.891, 0.055),
        "similarity_to_reference": (0.455, 0.590, 0.628, 0.034),
        "rules/one_line": (0.55, 0.99, 1.0, 0.01),
        "num_words": (14.2, 5.35, 5.42, 0.4),
        "ended_by_eos": (0.44, 0.984, 0.996, 0.004),
        "repetition_share": (0.085, 0.029, 0.026, 0.008),
    }
    changes = {
        "rougeL": (0.020, 0.0225),
        "rouge1": (0.030, 0.022),
        "rouge2": (0.016, 0.02),
        "rules/all": (0.094, 0.05),
        "similarity_to_reference": (0.038, 0.018),
        "rules/one_line": (0.01, 0.012),
        "num_words": (0.07, 0.3),
        "ended_by_eos": (0.012, 0.014),
        "repetition_share": (-0.003, 0.006),
    }
    evaluation = {
        system: {metric: _estimate(values[index], values[3]) for metric, values in means.items()}
        for index, system in enumerate(("base", "mle", "rl"))
    }
    differences = {
        "mle-base": {metric: _estimate(values[1] - values[0], values[3]) for metric, values in means.items()},
        "rl-base": {metric: _estimate(values[2] - values[0], values[3]) for metric, values in means.items()},
        "rl-mle": {metric: _estimate(mean, half) for metric, (mean, half) in changes.items()},
    }
    seconds = {"sft": 131.2, "ppo": 262.9, "evaluate": 38.4}
    return {"evaluation": evaluation, "differences": differences, "seconds": seconds, "stages": list(seconds)}


def _output_rows(rng: random.Random) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for index in range(60):
        name, text, reference, base, mle, rl = SYNOPSES[index % len(SYNOPSES)]
        outputs = {"base": base, "mle": mle, "rl": rl}
        metrics = {
            system: {
                "rougeL": rng.random() / 2,
                "rules/all": float(rng.random() < 0.8),
                "similarity_to_reference": rng.uniform(0.3, 0.8),
                "num_words": len(output.split()),
            }
            for system, output in outputs.items()
        }
        rows.append(
            {"id": f"{name}-{index}", "input": text, "reference": reference, "outputs": outputs, "metrics": metrics}
        )
    return rows


def _write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_run(folder: Path) -> Path:
    """Fill `folder` with a whole run."""
    rng = random.Random(7)
    _write_lines(folder / "metrics.jsonl", _metric_rows(rng))
    _write_lines(folder / "samples.jsonl", _sample_rows(rng))
    _write_lines(folder / "stages" / "evaluate" / "outputs.jsonl", _output_rows(rng))
    (folder / "summary.json").write_text(json.dumps(_summary()), encoding="utf-8")
    recipe = {
        "name": "quickstart",
        "seed": 0,
        "model": {"name": "default", "dtype": "bfloat16"},
        "note": HOSTILE,
        "stages": [{"type": "sft", "num_steps": 60}, {"type": "ppo", "num_steps": 43, "kl": {"coefficient": 0.02}}],
    }
    (folder / "recipe.resolved.json").write_text(json.dumps(recipe), encoding="utf-8")
    return folder


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "quickstart"
    folder.mkdir()
    return write_run(folder)


@pytest.fixture
def hostile() -> str:
    """Text that would be markup if it were not escaped; some of the run folder's rows hold it."""
    return HOSTILE
