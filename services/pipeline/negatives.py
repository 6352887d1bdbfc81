"""Contrasts for a reward-model stage from the rows' own outputs: bad outputs of every kind, and edits made by damage."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlft_core.batching.schedule import rows_of_step
from rlft_core.config.stages import RewardModelStage
from rlft_core.errors import DataError
from rlft_core.models.loading import load_tokenizer
from rlft_core.negatives import Contrast, Corpus, Made, make_corpus, make_negatives, one_of_each
from rlft_core.negatives.samples import Samples
from rlft_core.types import Row
from rlft_core.updates.reward_texts import TokenContrast
from services.pipeline.context import RunContext
from services.pipeline.encoding import encode_contrasts
from services.pipeline.sampling import sample_rows


@dataclass(slots=True)
class Negatives:
    """Tokenised contrasts in the order in which they are trained on, those to measure on, and what was counted."""

    train: list[TokenContrast]
    validation: list[TokenContrast]
    made: Counter[str]
    skipped: Counter[str]


async def negative_contrasts(context: RunContext, stage: RewardModelStage, start: str) -> Negatives:
    """All contrasts of the stage, tokenised. Every epoch draws new negatives for its rows.

    Raises DataError when no contrast is left.
    """
    samples: Samples | None = None
    if stage.samples_model is not None:
        rows = [*_training_rows(context, stage), *context.splits.validation[: stage.validation_rows]]
        samples = await sample_rows(context, stage, start, rows, stage.samples_model)
    return await asyncio.to_thread(make_contrasts, context, stage, start, samples)


def make_contrasts(context: RunContext, stage: RewardModelStage, start: str, samples: Samples | None) -> Negatives:
    """The contrasts of all epochs. Raises DataError when no contrast is left."""
    recipe = context.recipe
    tokenizer = load_tokenizer(start, trust_remote_code=recipe.model.trust_remote_code)
    corpus = make_corpus(
        context.splits.train,
        stage.kinds,
        tokenizer=tokenizer,
        samples=samples,
        family_field=recipe.data.family_field,
    )
    found = Negatives([], [], Counter(), Counter())
    total = stage.num_steps * stage.batch_rows
    epoch = 0
    while len(found.train) < total:
        rows = epoch_rows(context, epoch)[: total - len(found.train)]
        made = make_negatives(rows, corpus, stage.kinds, per_row=stage.made_per_row, seed=recipe.seed + 1 + epoch)
        before = len(found.train)
        found.train += _counted(context, stage, made, tokenizer, found)
        epoch += 1
        if len(found.train) == before:
            raise DataError(
                f"{stage.name}: no training row is left with a negative: {dict(found.skipped)} could not be made or fit. "
                "Use other kinds (negatives), or raise model.max_length"
            )
    held_out = context.splits.validation[: stage.validation_rows]
    found.validation = _validation(context, stage, held_out, corpus, tokenizer)
    return found


def epoch_rows(context: RunContext, epoch: int) -> list[Row]:
    """All training rows in the order of an epoch."""
    rows = context.splits.train
    order = rows_of_step(epoch, num_rows=len(rows), per_step=len(rows), seed=context.recipe.seed)
    return [rows[index] for index in order]


def _counted(
    context: RunContext, stage: RewardModelStage, made: Made, tokenizer: Any, found: Negatives
) -> list[TokenContrast]:
    contrasts = _encoded(context, stage, made.contrasts, tokenizer, found.skipped)
    found.made.update(kind for contrast in contrasts for kind in contrast.kinds)
    found.skipped.update(made.skipped)
    return contrasts


def _validation(
    context: RunContext, stage: RewardModelStage, rows: Sequence[Row], corpus: Corpus, tokenizer: Any
) -> list[TokenContrast]:
    if not rows:
        return []
    made = one_of_each(rows, corpus, stage.kinds, seed=context.recipe.seed)
    return _encoded(context, stage, made.contrasts, tokenizer, Counter())


def _encoded(
    context: RunContext, stage: RewardModelStage, contrasts: Sequence[Contrast], tokenizer: Any, skipped: Counter[str]
) -> list[TokenContrast]:
    return encode_contrasts(
        context.recipe,
        contrasts,
        tokenizer,
        skipped=skipped,
        marked=stage.marks_tokens,
        min_kept=stage.edits.min_kept if stage.edits is not None else 0.0,
    )


def _training_rows(context: RunContext, stage: RewardModelStage) -> list[Row]:
    """The rows that training will come to; some more than it needs, for those that give no negative."""
    wanted = stage.num_steps * stage.batch_rows
    return epoch_rows(context, 0)[: wanted + wanted // 10 + 1]
