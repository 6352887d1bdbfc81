"""What a long recipe adds to a run folder: post-processed systems, a reward model's findings, a watched stage."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

SYSTEMS = ("base", "mle", "mle+post", "rl", "rl+post")
#: metric -> mean of each system, half an interval
MEANS: dict[str, tuple[tuple[float, ...], float]] = {
    "rouge1": ((0.214, 0.376, 0.389, 0.405, 0.404), 0.039),
    "rouge2": ((0.084, 0.152, 0.158, 0.168, 0.168), 0.04),
    "rougeL": ((0.186, 0.336, 0.346, 0.356, 0.357), 0.037),
    "similarity_to_reference": ((0.455, 0.590, 0.601, 0.628, 0.629), 0.034),
    "num_words": ((14.2, 5.35, 5.2, 5.42, 5.4), 0.4),
    "num_tokens": ((20.1, 9.3, 9.3, 9.1, 9.1), 0.5),
    "repetition_share": ((0.085, 0.029, 0.021, 0.026, 0.025), 0.008),
    "ended_by_eos": ((0.44, 0.984, 0.984, 0.996, 0.996), 0.004),
    "copy_rate": ((0.62, 0.31, 0.30, 0.28, 0.28), 0.05),
    "la_rouge1": ((0.04, 0.211, 0.22, 0.238, 0.238), 0.03),
    "la_rouge2": ((0.02, 0.09, 0.091, 0.10, 0.10), 0.03),
    "la_rougeL": ((0.03, 0.195, 0.2, 0.215, 0.215), 0.03),
    "unsupported_numbers": ((0.01, 0.004, 0.004, 0.0, 0.0), 0.004),
    "unsupported_names": ((0.09, 0.05, 0.05, 0.041, 0.041), 0.02),
    "rules/all": ((0.012, 0.797, 0.86, 0.891, 0.91), 0.055),
    "reward_model": ((-2.13, 0.31, 0.36, 0.82, 0.81), 0.12),
    "bertscore": ((0.41, 0.57, 0.58, 0.60, 0.60), 0.03),
    "bertscore/precision": ((0.35, 0.56, 0.58, 0.60, 0.61), 0.03),
    "length_penalty": ((-1.9, -0.31, -0.27, -0.22, -0.22), 0.07),
}


def estimate(mean: float, half: float, n: int = 128) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": n}


def add_systems(folder: Path) -> None:
    """Five systems and their ten pairs in summary.json; outputs of each, where some are unchanged."""
    summary = json.loads((folder / "summary.json").read_text())
    summary["evaluation"] = {
        system: {metric: estimate(means[at], half) for metric, (means, half) in MEANS.items()}
        for at, system in enumerate(SYSTEMS)
    }
    summary["differences"] = {
        f"{later}-{SYSTEMS[first]}": {
            metric: estimate(means[second] - means[first], half / 2) for metric, (means, half) in MEANS.items()
        }
        for second, later in enumerate(SYSTEMS)
        for first in range(second)
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    path = folder / "stages" / "evaluate" / "outputs.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        plain = row["outputs"]
        row["outputs"] = {
            "base": plain["base"],
            "mle": plain["mle"],
            "mle+post": " ".join(plain["mle"].split()[:6]),
            "rl": plain["rl"],
            "rl+post": plain["rl"],
        }
        row["metrics"] = {
            system: {metric: means[at] for metric, (means, _) in MEANS.items()} for at, system in enumerate(SYSTEMS)
        }
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


FINDINGS: dict[str, Any] = {
    "kinds": {
        "model_samples": {"accuracy": estimate(0.71, 0.06), "gap": 0.84},
        "shuffled": {"accuracy": estimate(0.97, 0.02), "gap": 3.21},
        "truncated": {"accuracy": estimate(0.82, 0.05), "gap": -0.05},
    },
    "overall": estimate(0.833, 0.03),
    "calibration": {
        "ece": 0.042,
        "brier": 0.131,
        "bins": [
            {"low": 0.5, "high": 0.6, "confidence": 0.56, "accuracy": 0.60, "n": 20},
            {"low": 0.6, "high": 0.7, "confidence": 0.65, "accuracy": 0.58, "n": 41},
            {"low": 0.8, "high": 0.9, "confidence": 0.86, "accuracy": 0.81, "n": 77},
            {"low": 0.9, "high": 1.0, "confidence": 0.97, "accuracy": 0.95, "n": 246},
        ],
    },
    "positives": {"mean": -0.02, "std": 1.01},
    "pairs": {"made": {"model_samples": 1204, "shuffled": 1988}, "skipped": {"too_long <b>": 12}},
}


def add_reward_model(folder: Path, **changes: Any) -> None:
    path = folder / "stages" / "reward_model" / "result.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(FINDINGS | changes))


def looks() -> list[dict[str, Any]]:
    rng = random.Random(3)
    found = []
    for step in range(0, 44, 4):
        metrics = {
            "rougeL": estimate(0.336 + 0.001 * step - (0.004 * (step - 24) if step > 24 else 0), 0.035, 64),
            "similarity_to_reference": estimate(0.59 + rng.gauss(0, 0.004), 0.03, 64),
            "repetition_share": estimate(0.029 + 0.001 * step, 0.01, 64),
            "num_words": estimate(5.3 + rng.gauss(0, 0.1), 0.4, 64),
        }
        alarms = [f"rougeL fell by {0.004 * (step - 24):.3f} <i>while</i> the reward rose"] if step > 32 else []
        found.append(
            {"step": step, "reward": 0.31 + 0.012 * step, "metrics": metrics, "alarms": alarms, "best": step <= 24}
        )
    return found


def add_watch(folder: Path, rows: list[dict[str, Any]], stage: str = "ppo") -> None:
    path = folder / "stages" / stage / "watch.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
