"""The offline DPO stage: read or make pairs, tokenise them, run the learner."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from rlft_core.batching.schedule import rows_of_step
from rlft_core.config.pairs import REJECTED, FilePairsConfig, SampledPairsConfig
from rlft_core.config.stages import DpoStage
from rlft_core.data.preferences import load_preferences
from rlft_core.errors import DataError
from rlft_core.models.loading import load_tokenizer
from rlft_core.negatives import Contrast, Negative
from rlft_core.negatives.samples import Samples, read_samples, write_samples
from rlft_core.updates.reward_texts import TokenContrast
from services.learner import entry
from services.pipeline.context import RunContext
from services.pipeline.encoding import encode_contrasts
from services.pipeline.follow import train_on_rows
from services.pipeline.negatives import SAMPLES, epoch_rows
from services.pipeline.sampling import sample_rows


async def run_dpo(context: RunContext, stage: DpoStage) -> None:
    """Run or resume a stage of offline DPO; its model is in stages/<name>/model afterwards."""
    start = context.model_of(context.recipe.start_of(stage))
    with context.observer.stage(stage.name, num_steps=stage.num_steps) as observe:
        if isinstance(stage.pairs, FilePairsConfig):
            sides = [await asyncio.to_thread(_from_file, context, stage, side) for side in ("train", "validation")]
        else:
            sides = await _from_samples(context, stage, start, stage.pairs)
        train, validation = await asyncio.to_thread(_encoded, context, stage, start, sides)
        await train_on_rows(context, stage, entry.dpo, observe, train=train, validation=validation)


def _from_file(context: RunContext, stage: DpoStage, side: str) -> list[Contrast]:
    config = stage.pairs
    assert isinstance(config, FilePairsConfig)
    source = config.train if side == "train" else config.validation
    if source is None:
        return []
    found = load_preferences(
        source,
        prompt_field=config.prompt_field,
        chosen_field=config.chosen_field,
        rejected_field=config.rejected_field,
        base_dir=context.base_dir,
    )
    if found.num_equal:
        context.notice(f"stages.{stage.name}.pairs.{side}: {found.num_equal} pairs have no winner and are left out")
    return [Contrast(pair.row, (Negative(REJECTED, pair.rejected),)) for pair in found.pairs]


async def _from_samples(
    context: RunContext, stage: DpoStage, start: str, config: SampledPairsConfig
) -> list[list[Contrast]]:
    """The rows' own outputs against what the model writes, sampled once and kept."""
    rows = [epoch_rows(context, 0)[: stage.num_steps * stage.batch_rows], context.splits.validation]
    rows[1] = list(rows[1][: stage.validation_rows])
    every = list({row.id: row for side in rows for row in side}.values())
    path = context.stage_folder(stage.name) / SAMPLES
    samples: Samples = read_samples(path) if path.is_file() else await sample_rows(context, stage, start, every, config)
    write_samples(path, samples)
    return [
        [
            Contrast(row, tuple(Negative(REJECTED, text, ended) for text, ended in samples.get(row.id, ())))
            for row in side
        ]
        for side in rows
    ]


def _encoded(
    context: RunContext, stage: DpoStage, start: str, sides: Sequence[Sequence[Contrast]]
) -> tuple[list[TokenContrast], list[TokenContrast]]:
    """Tokenised pairs in the order of training, and those to measure on. Raises DataError when none is left."""
    tokenizer = load_tokenizer(start, trust_remote_code=context.recipe.model.trust_remote_code)
    skipped: Counter[str] = Counter()
    train = encode_contrasts(context.recipe, sides[0], tokenizer, skipped=skipped)
    validation = encode_contrasts(context.recipe, sides[1][: stage.validation_rows], tokenizer, skipped=Counter())
    if not train:
        raise DataError(
            f"stages.{stage.name}.pairs: of {len(sides[0])} pairs none can be trained on: equal texts, or longer than "
            f"model.max_length ({context.recipe.model.max_length})"
        )
    if sum(skipped.values()):
        told = ", ".join(f"{kind} {count}" for kind, count in sorted(skipped.items()) if count)
        context.notice(f"stages.{stage.name}.pairs: equal texts, or too long, and left out: {told}")
    order: list[TokenContrast] = []
    epoch, total = 0, stage.num_steps * stage.batch_rows
    while len(order) < total:
        turn = rows_of_step(epoch, num_rows=len(train), per_step=len(train), seed=context.recipe.seed)
        order += [train[index] for index in turn][: total - len(order)]
        epoch += 1
    return order, [replace(pair, shown="") for pair in validation]
