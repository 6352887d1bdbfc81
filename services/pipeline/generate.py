"""Answers of a tuned model, the best of several by a tournament that the model judges itself: self-rejection.

rows ─▶ [engines: N samples each] ─▶ [the same engines: a bracket, both orders] ─▶ one answer a row
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import ray

from rlft_core.batching.schedule import sampling_seed
from rlft_core.config.recipe import Recipe
from rlft_core.config.rollout import RolloutConfig
from rlft_core.judging.template import JudgeTemplate
from rlft_core.models.loading import load_tokenizer
from rlft_core.rewards.given import GivenScores
from rlft_core.types import Completion, Prompt, RolloutGroup, Row
from services.cluster.session import num_gpus_here
from services.pipeline.encoding import encode_prompts
from services.rollout.create import create_fleet
from services.rollout.engine import Sampling
from services.rollout.fleet import Fleet
from services.rollout.judging import TOURNAMENT, Judging


@dataclass(frozen=True, slots=True)
class Asked:
    """How answers are drawn: `num_samples` each, and by which template the model judges them when there are several."""

    sampling: Sampling
    num_samples: int
    seed: int
    template: JudgeTemplate | None = None
    principles: tuple[str, ...] | None = None


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
    try:
        await fleet.start()
        judging = _judging(recipe, model, asked)
        return list(
            await asyncio.gather(*(_answer(fleet, task, judging) for task in fleet.generate(prompts, asked.sampling)))
        )
    finally:
        await fleet.stop()


async def _answer(fleet: Fleet, task: asyncio.Task[ray.ObjectRef], judging: Judging | None) -> Generated:
    ref = await task
    chosen = 0
    if judging is not None:
        scores: GivenScores = await (await fleet.judge(ref, judging))
        chosen = int(np.argmax([value[0] for value in scores.values]))  # type: ignore[index]
    group: RolloutGroup = await ref
    completion: Completion = group.completions[chosen]
    distinct = len({c.text for c in group.completions})
    return Generated(group.prompt.row, completion.text, completion.finish_reason == "stop", distinct)


def _judging(recipe: Recipe, model: str, asked: Asked) -> Judging | None:
    if asked.num_samples == 1 or asked.template is None:
        return None
    return Judging(
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
