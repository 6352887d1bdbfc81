"""Preference pairs from end to end with a real engine: of samples and in a file, for DPO and for learning to judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support import evaluate, finish_run, metrics_of, recipe_content, rows, sft, steps_of, write_rows
from tests.integration.test_last_mile import ENGINE

pytestmark = pytest.mark.integration


def dpo(name: str, pairs: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "type": "dpo",
        "name": name,
        "num_steps": 4,
        "batch_rows": 4,
        "pairs": pairs,
        "optimizer": {"lr": 1e-3, "warmup_steps": 0},
        "learner": {"threads_per_rank": 1, "step_deadline_s": 120},
        "rollout": ENGINE,
        "validation_rows": 8,
        "checkpoint": {"every": 2},
    } | changes


def test_pairs_become_a_policy(tmp_path: Path, tiny_model: Path) -> None:
    write_rows(tmp_path, 60)
    pairs = [{"prompt": f"reads file {k}", "chosen": f"a tool {k}", "rejected": f"tool a {k}"} for k in range(12)]
    pairs.append({"prompt": "reads file", "chosen": "same", "rejected": "same"})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    stages = [
        sft(),
        dpo("sampled", {"source": "samples", "per_row": 2, "max_tokens": 12}, validate_every=2),
        dpo("filed", {"source": "file", "train": "pairs.jsonl"}, preference={"loss": "ipo"}, start_from="sft"),
        sft(
            name="judging",
            start_from="sft",
            rollout=ENGINE,
            judge={"template": "better-answer", "pairs": {"source": "samples", "max_tokens": 12}},
        ),
        evaluate(systems={"mle": "sft", "sampled": "sampled", "filed": "filed", "judging": "judging"}),
    ]
    content = recipe_content(tiny_model, *stages, dtype="bfloat16")
    content["model"]["max_length"] = 500
    content["data"]["validation"] = 8
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))
    told = finish_run(tmp_path)
    run = tmp_path / "runs" / "run"
    assert "1 pairs have no winner and are left out" in told
    assert "judging: 24 comparisons to draw from beside the outputs" in told
    judge = json.loads((run / "stages" / "judging" / "judge.json").read_text())
    assert (judge["num_pairs"], judge["num_truncated"]) == (8, 0)
    assert 0.0 <= judge["accuracy"]["low"] <= judge["accuracy"]["mean"] <= judge["accuracy"]["high"] <= 1.0
    assert f"judging: of 8 held-out pairs it prefers the better text in {judge['accuracy']['mean']:.1%}" in told
    for name in ("sampled", "filed"):
        assert steps_of(run, name) == [0, 1, 2, 3]
        metrics = metrics_of(run, name)
        assert metrics[0]["pairs/gap"] == pytest.approx(0.0, abs=1e-3)
        assert metrics[-1]["pairs/gap"] > 0
        assert (run / "stages" / name / "model" / "model.safetensors").is_file()
    held_out = [
        row["pairs/accuracy_validation"] for row in metrics_of(run, "sampled") if "pairs/accuracy_validation" in row
    ]
    assert len(held_out) == 2
    result = json.loads((run / "stages" / "sampled" / "result.json").read_text())
    assert result["accuracy"]["n"] == 16
    assert result["accuracy"]["mean"] == pytest.approx(held_out[-1])
    assert len(rows(run / "stages" / "sampled" / "samples.jsonl")) > 0
    assert set(json.loads((run / "summary.json").read_text())["evaluation"]) == {
        "mle",
        "sampled",
        "filed",
        "judging",
    }
