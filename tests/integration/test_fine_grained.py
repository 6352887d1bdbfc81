"""Token-level rewards from end to end with a real engine: minimal edits, a model of tokens, PPO with dense rewards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rlft_core.models.reward_model import RewardFacts
from tests.integration.support import ROOT, evaluate, finish_run, metrics_of, ppo, recipe_content, rows, sft, write_rows
from tests.integration.test_last_mile import ENGINE

pytestmark = pytest.mark.integration

SPANS = '''
def tool_words(sample):
    """Every "tool" earns 1."""
    found, start = [], sample.text.find("tool")
    while start >= 0:
        found.append((start, start + 4, 1.0))
        start = sample.text.find("tool", start + 4)
    return found


def mend(row, original):
    """The right word in front, if it is not there."""
    return None if original.startswith("a ") else "a " + original
'''


def reward_model(name: str, edits: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "type": "reward_model",
        "name": name,
        "num_steps": 4,
        "batch_rows": 4,
        "edits": edits,
        "optimizer": {"lr": 1e-3, "warmup_steps": 0},
        "learner": {"threads_per_rank": 1, "step_deadline_s": 120},
        "rollout": ENGINE,
        "validation_rows": 8,
        "checkpoint": {"every": 2},
    } | changes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """sft -> four reward models from four sources of edits -> ppo with dense rewards -> evaluate, in bfloat16."""
    base = tmp_path_factory.mktemp("fine_grained")
    write_rows(base, 60)
    (base / "own.py").write_text(SPANS)
    edits = [
        {"input": f"reads file {k}", "original": f"a smal tool {k}", "edited": f"a small tool {k}"} for k in range(12)
    ]
    (base / "edits.jsonl").write_text("".join(json.dumps(edit) + "\n" for edit in edits))
    sources: dict[str, dict[str, Any]] = {
        "corrupted": {"source": "corrupted", "per_row": 2, "min_kept": 0.1},
        "file": {"source": "file", "train": "edits.jsonl", "validation": "edits.jsonl", "min_kept": 0.1},
        "function": {"source": "function", "function": "own:mend", "max_tokens": 12, "min_kept": 0.1},
        "editor": {"source": "editor", "max_tokens": 12, "min_kept": 0.01, "attempts": 2},
    }
    tuned = ppo(
        num_steps=3,
        advantage={"type": "gae"},
        learner={"threads_per_rank": 1, "max_row_tokens": 512, "step_deadline_s": 200},
        rewards=[
            {"type": "reward_model", "stage": "corrupted", "name": "tokens", "clip": 3, "smooth": 1},
            {"type": "custom", "name": "places", "function": "own:tool_words", "spans": True, "weight": 0.5},
            {"type": "reward_model", "stage": "whole", "name": "whole", "weight": 0.1},
        ],
    )
    compared = evaluate(
        systems={"mle": "sft", "rl": "ppo"},
        postprocess={"first_line": True},
        rewards=[{"type": "reward_model", "stage": "corrupted", "name": "tokens"}],
    )
    models = [
        reward_model("corrupted", sources["corrupted"], level="token"),
        reward_model("file", sources["file"], level="token", loss="edited"),
        reward_model("function", sources["function"], level="token", loss="labels"),
        reward_model("editor", sources["editor"], level="token"),
        reward_model("whole", sources["corrupted"]),
    ]
    content = recipe_content(tiny_model, sft(), *models, tuned, compared, dtype="bfloat16")
    content["data"]["validation"] = 8
    content["model"]["max_length"] = 320
    (base / "recipe.yaml").write_text(json.dumps(content))
    finish_run(base)
    return base / "runs" / "run"


def test_every_source_of_edits_gives_a_model(finished: Path) -> None:
    for name, squash in {"corrupted": False, "file": False, "function": True, "editor": False}.items():
        folder = finished / "stages" / name
        facts = RewardFacts.read(folder / "model")
        assert (facts.level, facts.squash) == ("token", squash)
        assert AutoModelForSequenceClassification.from_pretrained(folder / "model", dtype=torch.float32)
        # The tiny model may write nothing that its untrained editor mends minimally in a validation row.
        assert (folder / "result.json").is_file() or name == "editor"
        if (folder / "result.json").is_file():
            result = json.loads((folder / "result.json").read_text())
            assert result["level"] == "token"
            assert result["localisation"]
    assert RewardFacts.read(finished / "stages" / "whole" / "model").level == "sequence"
    whole = json.loads((finished / "stages" / "whole" / "result.json").read_text())
    assert 0.0 <= whole["localisation"]["worse"]["auc"] <= 1.0
    kept = rows(finished / "stages" / "function" / "edits.jsonl")
    assert all(edit["edited"] == "a " + edit["original"] for edit in kept)


def test_samples_say_what_every_token_earned(finished: Path) -> None:
    samples = rows(finished / "samples.jsonl")
    assert len(samples) == 3 * 16
    for sample in samples:
        assert "".join(token["text"] for token in sample["tokens"]) == sample["output"]
        places = sum(token["parts"]["places"] for token in sample["tokens"])
        assert places == pytest.approx(sample["output"].count("tool"), abs=1e-4)
        dense = [token["parts"]["tokens"] + 0.5 * token["parts"]["places"] for token in sample["tokens"]]
        expected = [token["reward"] for token in sample["tokens"]]
        assert dense[:-1] == pytest.approx(expected[:-1], abs=1e-4)
        assert expected[-1] - dense[-1] == pytest.approx(0.1 * sample["breakdown"]["whole"], abs=1e-4)
        assert sum(expected) == pytest.approx(sample["reward"], abs=1e-4)
    assert "reward/tokens" in metrics_of(finished, "ppo")[0]


def test_a_person_sees_the_tokens(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    assert page.count('class="tok ') > 100
    assert "Token by token" in page
    command = [sys.executable, "-m", "services.cli.main", "show", "tokens", str(finished), "--limit", "2"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    told = subprocess.run(command, cwd=finished, env=env, check=True, timeout=120, capture_output=True, text=True)
    assert "original" in told.stdout
    assert "ppo, step 2, reward" in told.stdout
