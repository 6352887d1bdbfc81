"""A recipe from end to end with a real engine, as a person runs it: files, running again, and changing a key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.integration.support import (
    assert_each_once,
    evaluate,
    finish_run,
    metrics_of,
    ppo,
    recipe_content,
    rows,
    sft,
    steps_of,
)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder in which sft -> ppo -> evaluate has been run with vLLM in bfloat16."""
    from tests.integration.support import write_rows

    base = tmp_path_factory.mktemp("pipeline")
    write_rows(base)
    stages = [sft(), ppo(num_steps=3), evaluate(systems={"base": "base", "mle": "sft", "rl": "ppo"})]
    (base / "recipe.yaml").write_text(json.dumps(recipe_content(tiny_model, *stages, dtype="bfloat16")))
    told = finish_run(base)
    assert "report:" in told
    return base


def test_what_a_run_leaves(finished: Path) -> None:
    folder = finished / "runs" / "run"
    summary = json.loads((folder / "summary.json").read_text())
    assert [(stage["name"], stage["done"]) for stage in summary["stages"]] == [
        ("sft", True),
        ("ppo", True),
        ("evaluate", True),
    ]
    assert set(summary["seconds"]) == {"sft", "ppo", "evaluate"}
    assert set(summary["evaluation"]) == {"base", "mle", "rl"}
    rouge = summary["evaluation"]["rl"]["rougeL"]
    assert rouge["n"] == 4
    assert rouge["low"] <= rouge["mean"] <= rouge["high"]
    assert steps_of(folder, "sft") == [0, 1, 2]
    assert_each_once(folder, 3)
    report = (folder / "report.html").read_text()
    assert "<html" in report
    assert 'src="http' not in report
    outputs = rows(folder / "stages" / "evaluate" / "outputs.jsonl")
    assert [set(row["outputs"]) for row in outputs] == [{"base", "mle", "rl"}] * 4
    assert {name for name in metrics_of(folder, "ppo")[0] if name.startswith("sync/")} >= {"sync/probe", "sync/bytes"}
    assert json.loads((folder / "recipe.resolved.json").read_text())["model"]["dtype"] == "bfloat16"


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_tuned_models_are_plain_folders(finished: Path, tiny_model: Path, stage: str) -> None:
    folder = finished / "runs" / "run" / "stages" / stage / "model"
    tuned = AutoModelForCausalLM.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert tuned.dtype == torch.bfloat16
    moved = [(a.float() - b).abs().max().item() for a, b in zip(tuned.parameters(), base.parameters(), strict=True)]
    assert max(moved) > 1e-4
    assert AutoTokenizer.from_pretrained(folder).eos_token == AutoTokenizer.from_pretrained(tiny_model).eos_token


def test_running_again_does_nothing_again_and_a_changed_key_does_what_depends_on_it(finished: Path) -> None:
    folder = finished / "runs" / "run"
    before = (folder / "metrics.jsonl").read_bytes()
    report = folder / "report.html"
    report.unlink()

    # Were it to start Ray, it would have to be with a cluster of which there is none.
    told = finish_run(finished, "cluster.address=127.0.0.1:1")
    assert told.count("done before, with the same inputs; not run again") == 3
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert report.is_file()

    told = finish_run(finished, "stages.evaluate.max_rows=2")
    assert told.count("not run again") == 2
    assert "evaluate: its inputs changed; the earlier results are now in evaluate.old-1" in told
    assert len(rows(folder / "stages" / "evaluate" / "outputs.jsonl")) == 2
    assert len(rows(folder / "stages" / "evaluate.old-1" / "outputs.jsonl")) == 4
    assert json.loads((folder / "summary.json").read_text())["evaluation"]["rl"]["rougeL"]["n"] == 2
