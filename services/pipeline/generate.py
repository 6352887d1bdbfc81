"""Answers of a tuned model, the best of several by a tournament that the model judges itself (self-rejection), or by a reward
model.

rows ─▶ [engines: N samples each] ─▶ [the same engines: a bracket, both orders | reward model] ─▶ one answer a row
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray

from rlft_core.batching.schedule import sampling_seed
from rlft_core.config.recipe import Recipe
from rlft_core.config.rewards import RewardModelConfig
from rlft_core.config.rollout import RolloutConfig
from rlft_core.errors import JudgeError
from rlft_core.judging.template import JudgeTemplate
from rlft_core.models.loading import load_tokenizer
from rlft_core.rewards.given import GivenScores
from rlft_core.rewards.protocol import RewardValue, TokenRewards
from rlft_core.types import Completion, Prompt, RolloutGroup, Row
from services.cluster.session import num_gpus_here
from services.cluster.waiting import answer
from services.pipeline.encoding import encode_prompts
from services.rollout.create import create_fleet
from services.rollout.engine import Sampling
from services.rollout.fleet import Fleet
from services.rollout.judging import TOURNAMENT, JudgePool, Judging
from services.scoring.reward_models import create_model_pool
from services.scoring.scorers import Served


@dataclass(frozen=True, slots=True)
class Asked:
    """How answers are drawn: `num_samples` each, and when there are several, by which template the model judges them, or which
    folder's reward model scores them."""

    sampling: Sampling
    num_samples: int
    seed: int
    template: JudgeTemplate | None = None
    principles: tuple[str, ...] | None = None
    reward_model: str | None = None


@dataclass(frozen=True, slots=True)
class Generated:
    """The answer to one row, and the number of distinct answers that it was chosen from."""

    row: Row
    text: str
    ended: bool
    num_distinct: int


async def generate(
    recipe: Recipe,
    model: str,
    rows: Sequence[Row],
    asked: Asked,
    *,
    rollout: RolloutConfig,
    notice: Callable[[str], None],
) -> list[Generated]:
    """One answer for each row, in order, from engines that are started and ended here.

    Raises DataError for a prompt that is too long, JudgeError, EngineError.
    """
    tokenizer = load_tokenizer(model, trust_remote_code=recipe.model.trust_remote_code)
    fitting = encode_prompts(
        recipe, rows, tokenizer, max_new_tokens=asked.sampling.max_tokens, source="the inputs", notice=notice
    )
    prompts = [
        Prompt(row, tuple(ids), asked.num_samples, sampling_seed("generate", asked.seed, k))
        for k, (row, ids) in enumerate(zip(fitting.rows, fitting.ids, strict=True))
    ]
    fleet = create_fleet(recipe, rollout, model, on_gpu=num_gpus_here() > 0, notice=notice, lora=False, frozen=True)
    chooser = _chooser(recipe, model, asked, fleet)
    try:
        await fleet.start()
        if chooser is not None:
            await chooser.start(rollout.start_deadline_s)
        tasks = fleet.generate(prompts, asked.sampling)
        return list(await asyncio.gather(*(_answer(task, chooser, rollout.request_deadline_s) for task in tasks)))
    finally:
        if chooser is not None:
            await chooser.stop()
        await fleet.stop()


async def _answer(task: asyncio.Task[ray.ObjectRef], chooser: Served | None, deadline_s: float) -> Generated:
    ref = await task
    chosen = 0
    if chooser is not None:
        given, done = await chooser.score(ref)
        scores: GivenScores = await answer(given, chooser.label, "score", deadline_s)
        done()
        numbers = [_number(value) for value in scores.values]
        if not np.isfinite(numbers).all():
            raise JudgeError(f"{chooser.label} gave a score that is no number; its weights are broken")
        chosen = int(np.argmax(numbers))
    group: RolloutGroup = await ref
    completion: Completion = group.completions[chosen]
    distinct = len({c.text for c in group.completions})
    return Generated(group.prompt.row, completion.text, completion.finish_reason == "stop", distinct)


def _number(value: RewardValue) -> float:
    return value if isinstance(value, float) else value.value if isinstance(value, TokenRewards) else value[0]


def _nobody(text: str) -> None:
    """Nothing joins or leaves here."""


def _chooser(recipe: Recipe, model: str, asked: Asked, fleet: Fleet) -> Served | None:
    if asked.num_samples == 1:
        return None
    if asked.reward_model is not None:
        config = RewardModelConfig(name="reward model", model=asked.reward_model, cpus_per_actor=0)
        return create_model_pool(config, Path.cwd(), _nobody)
    assert asked.template is not None
    judging = Judging(
        "self",
        model,
        asked.template,
        asked.principles,
        TOURNAMENT,
        all_pairs=1,
        rounds=1,
        max_length=recipe.model.max_length,
        plain=False,
        trust_remote_code=recipe.model.trust_remote_code,
    )
    return JudgePool(judging, fleet, shared=True)
