"""The evaluation stage: several models answer the same held-out rows, greedily, one after the other on one fleet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ray
import torch
from safetensors import safe_open

from rlft_core.batching.schedule import sampling_seed
from rlft_core.config.rewards import RewardConfig
from rlft_core.config.stages import EvaluateStage
from rlft_core.errors import ModelError
from rlft_core.evaluation.table import evaluate
from rlft_core.models.loading import load_tokenizer
from rlft_core.rewards.build import build_rewards
from rlft_core.rewards.embedding import shared_embedder
from rlft_core.rewards.protocol import sample_of
from rlft_core.types import Prompt, RolloutGroup
from services.cluster.placement import environment, share_of_cores
from services.cluster.session import num_gpus_here
from services.pipeline.context import RunContext
from services.pipeline.encoding import encode_prompts
from services.pipeline.record import write_json
from services.rollout.create import create_fleet
from services.rollout.engine import Sampling
from services.weights.bundle import flatten
from services.weights.publication import Publication

RESULT = "result.json"
OUTPUTS = "outputs.jsonl"
_METRIC_TOKENS = 256


async def run_evaluate(context: RunContext, stage: EvaluateStage) -> None:
    """Write result.json (intervals and paired differences) and outputs.jsonl (every answer with its metrics)."""
    folder = context.stage_folder(stage.name)
    models = {label: context.model_of(source) for label, source in stage.systems.items()}
    first = next(iter(models.values()))
    prompts = _prompts(context, stage, first)
    fleet = create_fleet(
        context.recipe, stage.rollout, first, on_gpu=num_gpus_here() > 0, notice=context.notice, lora=False
    )
    with context.observer.stage(stage.name, num_steps=len(models)) as observe:
        try:
            await fleet.start()
            answers: dict[str, list[ray.ObjectRef]] = {}
            for number, (label, model) in enumerate(models.items()):
                with observe.step(number) as clock:
                    publication = await asyncio.to_thread(publication_of, model, number, context.recipe.model.dtype)
                    with clock("sync"):
                        await fleet.load(publication)
                    with clock("generate"):
                        answers[label] = list(
                            await asyncio.gather(*fleet.generate(prompts, Sampling(0.0, stage.max_tokens)))
                        )
                    clock.record({"tokens/prompts": float(len(prompts))})
        finally:
            await fleet.stop()
        env = environment(share_of_cores(1), context.base_dir)
        measure = _measure.options(runtime_env={"env_vars": env})
        result = await measure.remote(answers, stage.rewards, context.recipe.seed)
    outputs = result.pop("outputs")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / OUTPUTS).write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in outputs), encoding="utf-8"
    )
    write_json(folder / RESULT, result)


def publication_of(model: str, version: int, dtype: str) -> Publication:
    """The weights of a model folder as a publication; there is no learner to compare with, so no probe."""
    manifest, chunks = flatten(_tensors(Path(model)), version=version, dtype=getattr(torch, dtype))
    return Publication(manifest, tuple(ray.put(chunk) for chunk in chunks), None)


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} has no safetensors files to load weights from")
    with ExitStack() as stack:
        for file in files:
            reader = stack.enter_context(safe_open(file, framework="pt"))
            for name in reader.keys():  # noqa: SIM118 - not a dict
                yield name, reader.get_tensor(name)


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
        Prompt(row, tuple(tokens), 1, sampling_seed(stage.name, k))
        for k, (row, tokens) in enumerate(zip(fitting.rows, fitting.ids, strict=True))
    ]


@ray.remote(num_cpus=0)
def _measure(answers: dict[str, Sequence[ray.ObjectRef]], rewards: Sequence[RewardConfig], seed: int) -> dict[str, Any]:
    """In a worker, so that no answer passes through the coordinator."""
    groups: dict[str, list[RolloutGroup]] = {label: ray.get(list(refs)) for label, refs in answers.items()}
    samples = {
        label: [sample_of(group.prompt.row, group.completions[0]) for group in found] for label, found in groups.items()
    }
    embedder = shared_embedder("default", _METRIC_TOKENS)
    built = [weighted.reward for weighted in build_rewards(rewards)] if rewards else []
    result = evaluate(samples, rewards=built, embedder=embedder, seed=seed)
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
