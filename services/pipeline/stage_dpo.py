"""The offline DPO stage: read or make pairs, tokenise them, run the learner."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from rlft_core.batching.schedule import rows_of_step
from rlft_core.config.stages import DpoStage
from rlft_core.errors import DataError
from rlft_core.models.loading import load_tokenizer
from rlft_core.negatives import Contrast
from rlft_core.updates.reward_texts import TokenContrast
from services.learner import entry
from services.pipeline.context import RunContext
from services.pipeline.encoding import encode_contrasts
from services.pipeline.follow import train_on_rows
from services.pipeline.pairs import pairs_of


async def run_dpo(context: RunContext, stage: DpoStage) -> None:
    """Run or resume a stage of offline DPO; its model is in stages/<name>/model afterwards."""
    start = context.model_of(context.recipe.start_of(stage))
    with context.observer.stage(stage.name, num_steps=stage.num_steps) as observe:
        sides = await pairs_of(context, stage, stage.pairs, start)
        train, validation = await asyncio.to_thread(_encoded, context, stage, start, sides)
        await train_on_rows(context, stage, entry.dpo, observe, train=train, validation=validation)


def _encoded(
    context: RunContext, stage: DpoStage, start: str, sides: Sequence[Sequence[Contrast]]
) -> tuple[list[TokenContrast], list[TokenContrast]]:
    """Tokenised pairs in the order of training, and those to measure on. Raises DataError when none is left."""
    tokenizer = load_tokenizer(start, trust_remote_code=context.recipe.model.trust_remote_code)
    skipped, skipped_held_out = Counter[str](), Counter[str]()
    train = encode_contrasts(context.recipe, sides[0], tokenizer, skipped=skipped)
    validation = encode_contrasts(context.recipe, sides[1], tokenizer, skipped=skipped_held_out)
    if not train:
        raise DataError(
            f"stages.{stage.name}.pairs: of {len(sides[0])} pairs none can be trained on: equal texts, or longer than "
            f"model.max_length ({context.recipe.model.max_length})"
        )
    for side, left_out in (("pairs", skipped), ("pairs held out", skipped_held_out)):
        if sum(left_out.values()):
            told = ", ".join(f"{kind} {count}" for kind, count in sorted(left_out.items()) if count)
            context.notice(f"stages.{stage.name}, {side}: equal texts, or too long, and left out: {told}")
    if sides[1] and not validation:
        context.notice(f"stages.{stage.name}: no pair that is held out is left, so nobody measures what is preferred")
    total = stage.num_steps * stage.batch_rows
    order = rows_of_step(0, num_rows=len(train), per_step=total, seed=context.recipe.seed)
    return [train[index] for index in order], validation
