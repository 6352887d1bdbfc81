"""Preference pairs of a stage: read from files, or the rows' own outputs against what the model writes."""

from __future__ import annotations

import asyncio

from rlft_core.config.pairs import REJECTED, FilePairsConfig, PairsConfig, SampledPairsConfig
from rlft_core.config.stages import DpoStage, SftStage
from rlft_core.data.load import HUB_PREFIX
from rlft_core.data.preferences import load_preferences
from rlft_core.negatives import Contrast, Negative
from services.pipeline.context import RunContext
from services.pipeline.negatives import epoch_rows
from services.pipeline.sampling import sample_rows


async def pairs_of(
    context: RunContext, stage: SftStage | DpoStage, config: PairsConfig, start: str
) -> tuple[list[Contrast], list[Contrast]]:
    """Pairs to train on, and pairs to measure on. Each contrast's row has the preferred text as its output."""
    if isinstance(config, SampledPairsConfig):
        return await _from_samples(context, stage, start, config)
    train, validation = [
        await asyncio.to_thread(_from_file, context, stage, config, side) for side in ("train", "validation")
    ]
    return train, validation[: stage.validation_rows]


def _from_file(context: RunContext, stage: SftStage | DpoStage, config: FilePairsConfig, side: str) -> list[Contrast]:
    source = config.train if side == "train" else config.validation
    if source is None:
        return []
    found = load_preferences(
        source,
        prompt_field=config.prompt_field,
        chosen_field=config.chosen_field,
        rejected_field=config.rejected_field,
        needed=config.fields_needed,
        split=side if source.startswith(HUB_PREFIX) else None,
        base_dir=context.base_dir,
    )
    if found.num_equal:
        context.notice(f"{stage.name}, pairs.{side}: {found.num_equal} pairs have no winner and are left out")
    return [Contrast(pair.row, (Negative(REJECTED, pair.rejected),)) for pair in found.pairs]


async def _from_samples(
    context: RunContext, stage: SftStage | DpoStage, start: str, config: SampledPairsConfig
) -> tuple[list[Contrast], list[Contrast]]:
    """The rows' own outputs against what the model writes."""
    train = epoch_rows(context, 0)[: stage.num_steps * stage.batch_rows]
    validation = list(context.splits.validation[: stage.validation_rows])
    samples = await sample_rows(context, stage, start, [*train, *validation], config)
    sides = [
        [
            Contrast(row, tuple(Negative(REJECTED, text, ended) for text, ended in samples.get(row.id, ())))
            for row in side
        ]
        for side in (train, validation)
    ]
    return sides[0], sides[1]
