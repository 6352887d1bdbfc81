"""The last mile from end to end with a real engine: a reward model from synthetic negatives, PPO against it, the watch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlft_core.config.rewards import RewardModelConfig
from rlft_core.models.reward_model import RewardFacts
from rlft_core.models.tiny import make_tiny_model
from rlft_core.rewards.protocol import Sample
from rlft_core.rewards.reward_model import RewardModelReward
from rlft_core.types import Row
from tests.integration.support import (
    ROOT,
    evaluate,
    finish_run,
    metrics_of,
    ppo,
    recipe_content,
    rows,
    sft,
    steps_of,
    write_rows,
)

pytestmark = pytest.mark.integration

KINDS = ("random_tokens", "irrelevant", "shuffled", "repetitive", "copy", "truncated", "run_on", "typos")
ENGINE = {"threads_per_engine": 1, "kv_cache_mb": 32, "max_sequences": 32}


def reward_model(**changes: Any) -> dict[str, Any]:
    """A reward-model stage of six steps with every kind that the rows allow, samples of the model among them."""
    return {
        "type": "reward_model",
        "num_steps": 6,
        "batch_rows": 4,
        "negatives": [*({"kind": kind} for kind in KINDS), {"kind": "model_samples", "max_tokens": 12}],
        "optimizer": {"lr": 1e-3, "warmup_steps": 0},
        "learner": {"threads_per_rank": 1, "step_deadline_s": 120},
        "rollout": ENGINE,
        "validation_rows": 8,
        "validate_every": 3,
        "checkpoint": {"every": 2},
    } | changes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The folder of a run sft -> reward_model -> ppo -> evaluate in bfloat16; the critic starts as the reward model."""
    base = tmp_path_factory.mktemp("last_mile")
    write_rows(base, 60)
    tuned = ppo(
        num_steps=4,
        advantage={"type": "gae", "critic": {"type": "model", "start_from": "reward_model"}},
        rewards=[{"type": "reward_model"}, {"type": "length_penalty", "unit": "characters", "weight": 0.1}],
        watch={"every": 2, "rows": 4, "keep_best": True},
    )
    compared = evaluate(
        systems={"base": "base", "mle": "sft", "rl": "ppo"},
        postprocess={"first_line": True},
        rewards=[{"type": "reward_model"}],
    )
    stages = [sft(validate_every=1, keep="best"), reward_model(), tuned, compared]
    content = recipe_content(tiny_model, *stages, dtype="bfloat16")
    content["data"]["validation"] = 8
    (base / "recipe.yaml").write_text(json.dumps(content))
    finish_run(base)
    return base / "runs" / "run"


def test_every_stage_leaves_what_it_says(finished: Path) -> None:
    stages = finished / "stages"
    assert (stages / "sft" / "model" / "model.safetensors").is_file()
    assert steps_of(finished, "reward_model") == list(range(6))
    found = json.loads((stages / "reward_model" / "result.json").read_text())
    assert set(found["kinds"]) == {*KINDS, "model_samples"}
    assert {"overall", "calibration", "positives", "pairs"} <= set(found)
    assert sum(found["pairs"]["made"].values()) > 0
    assert [line["step"] for line in rows(stages / "ppo" / "watch.jsonl")] == [0, 2, 4]
    assert not list((stages / "ppo").glob("best-*"))
    assert (stages / "ppo" / "model" / "model.safetensors").is_file()
    assert "critic/explained_variance" in metrics_of(finished, "ppo")[0]
    systems = json.loads((finished / "summary.json").read_text())["evaluation"]
    assert list(systems) == ["base", "mle", "mle+post", "rl", "rl+post"]
    assert "reward_model" in systems["rl+post"]
    assert "reward_model" in (finished / "report.html").read_text()


def test_the_model_of_the_supervised_stage_is_the_best_one(finished: Path) -> None:
    losses = [row["loss/validation"] for row in metrics_of(finished, "sft")]
    assert losses[-1] == min(losses)
    best = (finished / "stages" / "sft" / "best" / "model.safetensors").read_bytes()
    assert (finished / "stages" / "sft" / "model" / "model.safetensors").read_bytes() == best


def test_transformers_loads_the_reward_model_and_finds_the_same_rewards(finished: Path) -> None:
    folder = finished / "stages" / "reward_model" / "model"
    plain = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert plain.config.num_labels == 1
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    facts = RewardFacts.read(folder)
    config = RewardModelConfig(model=str(folder))
    ours = RewardModelReward.from_config(config)
    samples = [sample(text, k) for k, text in enumerate(("a small file tool", "tool", "a b c d e f g h i j k l m n"))]
    texts = [ours._prompt(one.row) + ours._text(one) for one in samples]
    longest = max(len(ids) for ids in texts)
    padded = torch.tensor([ids + [tokenizer.pad_token_id] * (longest - len(ids)) for ids in texts])
    with torch.no_grad():
        scores = plain(input_ids=padded, attention_mask=(padded != tokenizer.pad_token_id).long()).logits[:, 0]
    expected = ((scores - facts.mean) / facts.std).tolist()
    # Ours runs its products in bfloat16, as in training; on this scale references have a spread of 1.
    differences = [abs(a - b) for a, b in zip(ours(samples), expected, strict=True)]
    assert max(differences) < 0.1 * max(1.0, max(abs(value) for value in expected))


def sample(text: str, index: int) -> Sample:
    row = Row(f"row-{index}", f"reads file {index}", "a small file tool", {"input": f"reads file {index}"})
    return Sample(row, text, np.zeros(3, np.int32), "stop")


def test_other_columns_other_lengths_and_another_model(tmp_path: Path) -> None:
    """`rlft init` on a CSV file with its own column names and a model of another family without a chat template, then the run."""
    model = make_tiny_model(tmp_path / "model", family="qwen2", vocab=400)
    (model / "chat_template.jinja").unlink()
    things = ("lamp", "chair", "table", "mirror", "carpet", "kettle", "spoon", "basket")
    lines = ["text,headline"]
    for k in range(60):
        thing, other = things[k % 8], things[(k + 3) % 8]
        lines.append(f"The {thing} number {k} is sold together with a {other} in our shop,{thing} {k} with {other}")
    (tmp_path / "shop.csv").write_text("\n".join(lines) + "\n")
    command = [
        sys.executable,
        "-m",
        "services.cli.main",
        "init",
        "shop.csv",
        "--model",
        str(model),
        "--out",
        "recipe.yaml",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=tmp_path, env=env, check=True, timeout=120)
    small = {
        "sft": ("num_steps=4", "validate_every=2", "optimizer.warmup_steps=0"),
        "reward_model": ("num_steps=3", "optimizer.warmup_steps=0", "rollout.kv_cache_mb=32"),
        "ppo": (
            "num_steps=2",
            "prompts_per_step=2",
            "samples_per_prompt=4",
            "optimizer.warmup_steps=0",
            "rollout.kv_cache_mb=32",
        ),
        "evaluate": ("rollout.kv_cache_mb=32",),
    }
    finish_run(tmp_path, *(f"stages.{stage}.{change}" for stage, changes in small.items() for change in changes))
    (folder,) = (tmp_path / "runs").iterdir()
    systems = json.loads((folder / "summary.json").read_text())["evaluation"]
    assert {"base", "mle", "mle+post", "rl", "rl+post"} <= set(systems)
    assert "shop" in (folder / "report.html").read_text()


HACK = '''
def count(sample):
    """A reward that anybody can game: say the word."""
    return float(sample.text.split().count("tool"))
'''


def test_a_planted_reward_hack_is_caught_and_the_best_model_kept(tmp_path: Path, tiny_model: Path) -> None:
    """A policy that has learned the task is rewarded for one word: it says it again and again, and the watch sees it."""
    write_rows(tmp_path, 60)
    (tmp_path / "hack.py").write_text(HACK)
    hacked = ppo(
        num_steps=80,
        advantage={"type": "rloo"},
        kl={"coefficient": 0.0},
        rewards=[{"type": "custom", "function": "hack:count"}],
        watch={"every": 4, "rows": 8, "early_stop": True},
        sampling={"max_tokens": 16},
        optimizer={"lr": 3e-3, "warmup_steps": 0, "schedule": "constant"},
    )
    taught = sft(num_steps=80, batch_rows=8, optimizer={"lr": 3e-3, "warmup_steps": 0})
    content = recipe_content(tiny_model, taught, hacked, dtype="bfloat16")
    content["data"]["validation"] = 8
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))
    told = finish_run(tmp_path)
    folder = tmp_path / "runs" / "run" / "stages" / "ppo"
    looks = rows(folder / "watch.jsonl")
    assert looks[0]["metrics"]["rougeL"]["mean"] > 0.5, "the policy had not learned the task, so nothing could be lost"
    assert looks[-1]["alarms"]
    assert all(not look["alarms"] for look in looks[:-1])
    assert looks[-1]["step"] < 80
    assert looks[-1]["reward"] > looks[0]["reward"]
    assert "the reward may be gamed" in told
    assert "stopped early" in told
    assert (folder / "model" / "model.safetensors").is_file()
