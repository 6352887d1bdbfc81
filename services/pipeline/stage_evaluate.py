"""The evaluation stage: several models answer the same held-out rows, one after the other on one fleet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import ray

from rlft_core.batching.schedule import sampling_seed
from rlft_core.config.stages import EvaluateStage
from rlft_core.evaluation.systems import with_postprocessed
from rlft_core.evaluation.table import evaluate
from rlft_core.models.loading import load_tokenizer
from rlft_core.rewards.build import build_rewards
from rlft_core.rewards.embedding import shared_embedder
from rlft_core.rewards.given import KnownReward
from rlft_core.rewards.protocol import sample_of
from rlft_core.rewards.reward_model import RewardModelReward
from rlft_core.types import Prompt, RolloutGroup
from services.cluster.placement import environment, share_of_cores
from services.cluster.session import num_gpus_here
from services.control.desk import Hooks
from services.pipeline.context import RunContext
from services.pipeline.encoding import encode_prompts
from services.pipeline.record import write_json
from services.rollout.create import create_fleet
from services.rollout.engine import Sampling
from services.weights.folder import publication_of

RESULT = "result.json"
OUTPUTS = "outputs.jsonl"
_METRIC_TOKENS = 256


async def run_evaluate(context: RunContext, stage: EvaluateStage) -> None:
    """Write result.json (intervals and paired differences) and outputs.jsonl (every answer with its metrics)."""
    folder = context.stage_folder(stage.name)
    models = {label: context.model_of(source) for label, source in stage.systems.items()}
    first = next(iter(models.values()))
    prompts = _prompts(context, stage, first)
    sampling = Sampling(stage.temperature, stage.max_tokens)
    fleet = create_fleet(
        context.recipe, stage.rollout, first, on_gpu=num_gpus_here() > 0, notice=context.notice, lora=False
    )
    with (
        context.observer.stage(stage.name, num_steps=len(models)) as observe,
        context.desk.stage(stage.name, Hooks(actors=fleet.actors)),
    ):
        try:
            await fleet.start()
            answers: dict[str, list[ray.ObjectRef]] = {}
            for number, (label, model) in enumerate(models.items()):
                with observe.step(number) as clock:
                    publication = await asyncio.to_thread(publication_of, model, number, context.recipe.model.dtype)
                    with clock("sync"):
                        await fleet.load(publication)
                    with clock("generate"):
                        answers[label] = list(await asyncio.gather(*fleet.generate(prompts, sampling)))
                    clock.record({"tokens/prompts": float(len(prompts))})
        finally:
            await fleet.stop()
        env = environment(share_of_cores(1), context.base_dir)
        gpus = max((reward.gpus_per_actor for reward in stage.reward_models), default=0.0)
        measure = _measure.options(num_gpus=gpus, runtime_env={"env_vars": env})
        measured = stage.model_copy(update={"rewards": context.with_models(stage, stage.rewards)})
        result = await measure.remote(answers, measured, context.recipe.seed)
    outputs = result.pop("outputs")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / OUTPUTS).write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in outputs), encoding="utf-8"
    )
    write_json(folder / RESULT, result)


def _prompts(context: RunContext, stage: EvaluateStage, model: str) -> list[Prompt]:
    recipe = context.recipe
    rows = context.splits.test if stage.split == "test" else context.splits.validation
    fitting = encode_prompts(
        recipe,
        rows[: stage.max_rows] if stage.max_rows else rows,
        load_tokenizer(model, trust_remote_code=recipe.model.trust_remote_code),
        max_new_tokens=stage.max_tokens,
        source=f"data.{stage.split}",
        notice=context.notice,
    )
    return [
        Prompt(row, tuple(tokens), 1, sampling_seed(stage.name, k))  # the same seeds for every system
        for k, (row, tokens) in enumerate(zip(fitting.rows, fitting.ids, strict=True))
    ]


@ray.remote(num_cpus=0)
def _measure(answers: dict[str, Sequence[ray.ObjectRef]], stage: EvaluateStage, seed: int) -> dict[str, Any]:
    """In a worker, so that no answer passes through the coordinator."""
    groups: dict[str, list[RolloutGroup]] = {label: ray.get(list(refs)) for label, refs in answers.items()}
    plain = {
        label: [sample_of(group.prompt.row, group.completions[0]) for group in found] for label, found in groups.items()
    }
    samples = with_postprocessed(plain, stage.postprocess, stage.systems_postprocessed)
    embedder = shared_embedder("default", _METRIC_TOKENS)
    built = [weighted.reward for weighted in build_rewards(stage.rewards)] if stage.rewards else []
    every = [sample for found in samples.values() for sample in found]
    # A reward model reads a row's prompt once for all systems.
    rewards = [KnownReward.of(reward, every) if isinstance(reward, RewardModelReward) else reward for reward in built]
    result = evaluate(samples, rewards=rewards, embedder=embedder, seed=seed)
    first = next(iter(samples.values()))
    outputs = [
        {
            "id": sample.row.id,
            "input": sample.row.input,
            "reference": sample.row.output,
            "outputs": {label: samples[label][k].text for label in samples},
            "metrics": {
                label: {metric: float(values[k]) for metric, values in result.values[label].items()}
                for label in samples
            },
        }
        for k, sample in enumerate(first)
    ]
    return {"evaluation": result.summary(), "differences": result.paired(), "outputs": outputs}
