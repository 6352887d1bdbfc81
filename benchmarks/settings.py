"""What is measured: one set of sizes for all measurements, and the recipe and prompts that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlft_core.batching.schedule import rows_of_step
from rlft_core.config import Recipe, parse_recipe
from rlft_core.config.online import PpoStage
from rlft_core.data import encode_prompt
from rlft_core.data.prepare import rows_of
from rlft_core.models.loading import load_tokenizer

ROOT = Path(__file__).resolve().parents[1]
SYSTEM = "Write a one-line synopsis (at most 12 words) of the software package."
NEVER = 10**6


@dataclass(frozen=True, slots=True)
class Settings:
    """`model` is a folder. `max_batch_tokens` lets a step go through a model at once. `warmup_steps` come before the
    `measured_steps` and are not counted."""

    model: str
    prompts_per_step: int = 8
    samples_per_prompt: int = 8
    max_new_tokens: int = 24
    max_length: int = 512
    max_batch_tokens: int = 4096
    learning_rate: float = 1e-5
    warmup_steps: int = 2
    measured_steps: int = 6
    repeats: int = 3
    peer_steps: int = 1
    seed: int = 0

    @property
    def samples_per_step(self) -> int:
        return self.prompts_per_step * self.samples_per_prompt


def recipe(settings: Settings, reward_model: Path, *, max_lag: int) -> Recipe:
    """PPO with four models of one size: policy, frozen reference, reward model and a critic of its own.

    All weights are trained; one epoch, one minibatch; no checkpoint, no sample log, as the peer writes none.
    """
    optimizer = {"lr": settings.learning_rate, "warmup_steps": 0}
    stage = {
        "type": "ppo",
        # Behind the last measured step stands one more: with lag, the last step of a run has nothing to overlap with.
        "num_steps": settings.warmup_steps + settings.measured_steps + max_lag,
        "prompts_per_step": settings.prompts_per_step,
        "samples_per_prompt": settings.samples_per_prompt,
        "max_lag": max_lag,
        "sampling": {"temperature": 1.0, "max_tokens": settings.max_new_tokens},
        "advantage": {"type": "gae", "critic": {"type": "model", "optimizer": optimizer}},
        "kl": {"coefficient": 0.05},
        "rewards": [
            {
                "type": "custom",
                "name": "reward_model",
                "function": "benchmarks.reward_model:score",
                "batched": True,
                "params": {"folder": str(reward_model), "system": SYSTEM},
            }
        ],
        "learner": {"max_batch_tokens": settings.max_batch_tokens},
        "optimizer": optimizer,
        "checkpoint": {"every": NEVER},
        "log_samples_every": NEVER,
    }
    return parse_recipe(
        {
            "name": f"lag-{max_lag}",
            "seed": settings.seed,
            "model": {"name": settings.model, "dtype": "bfloat16", "max_length": settings.max_length},
            "data": {
                "train": "data/synopses/train.jsonl",
                "input_field": "description",
                "output_field": "synopsis",
                "id_field": "id",
                "prompt": {"system": SYSTEM},
                "max_prompt_tokens": settings.max_length - settings.max_new_tokens,
                "too_long": "skip",
            },
            "stages": [stage],
        },
        source="the benchmark's recipe",
    )


def stage_of(run: Recipe) -> PpoStage:
    """The only stage of a benchmark's recipe."""
    stage = run.stages[0]
    assert isinstance(stage, PpoStage)
    return stage


def encoded_prompts(run: Recipe, settings: Settings) -> list[list[int]]:
    """Token ids of every training prompt that fits, in the order in which a run numbers them."""
    tokenizer: Any = load_tokenizer(settings.model)
    prompt = run.data.prompt
    rows = rows_of(run.data, ROOT, run.seed).train
    ids = [encode_prompt(tokenizer, r, system=prompt.system, template=prompt.template, chat=prompt.chat) for r in rows]
    return [list(found) for found in ids if len(found) <= run.data.max_prompt_tokens]


def prompts_of_steps(run: Recipe, settings: Settings, steps: range) -> list[list[list[int]]]:
    """For each step the token ids of the prompts that a run of this recipe asks in it."""
    encoded = encoded_prompts(run, settings)
    per_step = settings.prompts_per_step
    return [
        [encoded[row] for row in rows_of_step(step, num_rows=len(encoded), per_step=per_step, seed=run.seed)]
        for step in steps
    ]
