"""The reward-model stage: make bad outputs, tokenise, run the learner, say how well it tells good from bad.

[sample the model] ─▶ negatives for every row of every epoch ─▶ token ids ─▶ learner ─▶ model/, result.json
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlft_core.batching.schedule import rows_of_step, sampling_seed
from rlft_core.config.negatives import ModelSamplesConfig
from rlft_core.config.stages import RewardModelStage
from rlft_core.errors import DataError
from rlft_core.models.loading import load_tokenizer
from rlft_core.negatives import Corpus, Made, make_corpus, make_negatives, one_of_each
from rlft_core.negatives.samples import Samples, read_samples, write_samples
from rlft_core.types import Prompt, RolloutGroup, Row
from rlft_core.updates.reward import TokenContrast
from services.cluster.session import num_gpus_here
from services.learner import entry
from services.pipeline.context import RunContext
from services.pipeline.encoding import LEFT_OUT, encode_contrasts, encode_prompts
from services.pipeline.follow import train_on_rows
from services.pipeline.record import write_json
from services.rollout.create import create_fleet
from services.rollout.engine import Sampling
from services.weights.folder import publication_of

RESULT, SAMPLES = "result.json", "samples.jsonl"


@dataclass(slots=True)
class Negatives:
    """Tokenised contrasts in the order in which they are trained on, those to measure on, and what was counted."""

    train: list[TokenContrast]
    validation: list[TokenContrast]
    made: Counter[str]
    skipped: Counter[str]


async def run_reward_model(context: RunContext, stage: RewardModelStage) -> None:
    """Run or resume a reward-model stage; its model is in stages/<name>/model afterwards."""
    start = context.model_of(context.recipe.start_of(stage))
    folder = context.stage_folder(stage.name)
    with context.observer.stage(stage.name, num_steps=stage.num_steps) as observe:
        samples = await sample_model(context, stage, start) if stage.samples_model else None
        negatives = await asyncio.to_thread(make_contrasts, context, stage, start, samples)
        tell(context, stage, negatives)
        await train_on_rows(
            context, stage, entry.reward, observe, train=negatives.train, validation=negatives.validation
        )
    if (folder / RESULT).is_file():
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        result["pairs"] = {"made": dict(negatives.made), "skipped": dict(negatives.skipped)}
        write_json(folder / RESULT, result)
        context.observer.terminal.reward_model(stage.name, result)
    else:
        context.notice(f"{stage.name}: there are no validation rows, so nobody knows how well it tells good from bad")


async def sample_model(context: RunContext, stage: RewardModelStage, start: str) -> Samples:
    """Completions of the model that the stage starts from, by row id; made once and kept in samples.jsonl."""
    kind = stage.samples_model
    assert kind is not None
    path = context.stage_folder(stage.name) / SAMPLES
    if path.is_file():
        return read_samples(path)
    rows = [*_training_rows(context, stage), *context.splits.validation[: stage.validation_rows]]
    rows = list({row.id: row for row in rows}.values())
    prompts = _prompts(context, stage, start, rows, kind)
    fleet = create_fleet(
        context.recipe, stage.rollout, start, on_gpu=num_gpus_here() > 0, notice=context.notice, lora=False
    )
    context.observer.terminal.line(f"{stage.name}: sampling {kind.per_row} completions for each of {len(rows)} rows")
    try:
        await fleet.start()
        await fleet.load(await asyncio.to_thread(publication_of, start, 0, context.recipe.model.dtype))
        refs = await asyncio.gather(*fleet.generate(prompts, Sampling(kind.temperature, kind.max_tokens)))
        groups: list[RolloutGroup] = list(await asyncio.gather(*refs))
    finally:
        await fleet.stop()
    found = {g.prompt.row.id: [(c.text, c.finish_reason == "stop") for c in g.completions] for g in groups}
    write_samples(path, found)
    return found


def make_contrasts(context: RunContext, stage: RewardModelStage, start: str, samples: Samples | None) -> Negatives:
    """All contrasts of the run, tokenised. Every epoch draws new negatives for its rows.

    Raises DataError when no contrast is left.
    """
    recipe = context.recipe
    tokenizer = load_tokenizer(start, trust_remote_code=recipe.model.trust_remote_code)
    corpus = make_corpus(
        context.splits.train,
        stage.negatives,
        tokenizer=tokenizer,
        samples=samples,
        family_field=recipe.data.family_field,
    )
    found = Negatives([], [], Counter(), Counter())
    total = stage.num_steps * stage.batch_rows
    epoch = 0
    while len(found.train) < total:
        rows = _epoch(context, epoch)[: total - len(found.train)]
        made = make_negatives(
            rows, corpus, stage.negatives, per_row=stage.negatives_per_row, seed=recipe.seed + 1 + epoch
        )
        before = len(found.train)
        found.train += _counted(context, made, tokenizer, found)
        epoch += 1
        if len(found.train) == before:
            raise DataError(
                f"{stage.name}: no training row is left with a negative: {dict(found.skipped)} could not be made or fit. "
                "Use other kinds (negatives), or raise model.max_length"
            )
    held_out = context.splits.validation[: stage.validation_rows]
    found.validation = _validation(context, stage, held_out, corpus, tokenizer)
    return found


def _counted(context: RunContext, made: Made, tokenizer: Any, found: Negatives) -> list[TokenContrast]:
    contrasts = encode_contrasts(context.recipe, made.contrasts, tokenizer, skipped=found.skipped)
    found.made.update(kind for contrast in contrasts for kind in contrast.kinds)
    found.skipped.update(made.skipped)
    return contrasts


def _validation(
    context: RunContext, stage: RewardModelStage, rows: Sequence[Row], corpus: Corpus, tokenizer: Any
) -> list[TokenContrast]:
    if not rows:
        return []
    made = one_of_each(rows, corpus, stage.negatives, seed=context.recipe.seed)
    return encode_contrasts(context.recipe, made.contrasts, tokenizer, skipped=Counter())


def tell(context: RunContext, stage: RewardModelStage, negatives: Negatives) -> None:
    """What was left out, and which kinds never came about: never silently."""
    skipped = {kind: count for kind, count in sorted(negatives.skipped.items()) if count}
    if skipped:
        told = ", ".join(f"{kind} {count}" for kind, count in skipped.items())
        context.observer.terminal.line(
            f"{stage.name}: could not be made, equal the reference, or are too long, and were replaced or left out: {told}"
        )
    never = [kind.label for kind in stage.negatives if kind.share and not negatives.made[kind.label]]
    if never:
        context.notice(f"{stage.name}: no row gave a negative of {', '.join(never)}; the reward model will not know it")
    if negatives.skipped[LEFT_OUT]:
        context.notice(f"{stage.name}: {negatives.skipped[LEFT_OUT]} rows were left out: {LEFT_OUT}")


def _epoch(context: RunContext, epoch: int) -> list[Row]:
    """All training rows in the order of an epoch."""
    rows = context.splits.train
    order = rows_of_step(epoch, num_rows=len(rows), per_step=len(rows), seed=context.recipe.seed)
    return [rows[index] for index in order]


def _training_rows(context: RunContext, stage: RewardModelStage) -> list[Row]:
    """The rows that training will come to; some more than it needs, for those that give no negative."""
    wanted = stage.num_steps * stage.batch_rows
    return _epoch(context, 0)[: wanted + wanted // 10 + 1]


def _prompts(
    context: RunContext, stage: RewardModelStage, start: str, rows: Sequence[Row], kind: ModelSamplesConfig
) -> list[Prompt]:
    recipe = context.recipe
    tokenizer = load_tokenizer(start, trust_remote_code=recipe.model.trust_remote_code)
    fitting = encode_prompts(
        recipe, rows, tokenizer, max_new_tokens=kind.max_tokens, source="data.train", notice=context.notice
    )
    return [
        Prompt(row, tuple(ids), kind.per_row, sampling_seed(stage.name, recipe.seed, row.id))
        for row, ids in zip(fitting.rows, fitting.ids, strict=True)
    ]
