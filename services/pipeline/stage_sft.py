"""The supervised stage: tokenise rows and train on them."""

from __future__ import annotations

from rlft_core.config.stages import SftStage
from rlft_core.models.loading import load_tokenizer
from services.learner import entry
from services.pipeline.context import RunContext
from services.pipeline.encoding import encode_pairs
from services.pipeline.follow import train_on_rows


async def run_sft(context: RunContext, stage: SftStage) -> None:
    """Run or resume a supervised stage; its model is in stages/<name>/model afterwards."""
    start = context.model_of(context.recipe.start_of(stage))
    tokenizer = load_tokenizer(start, trust_remote_code=context.recipe.model.trust_remote_code)
    splits = {"data.train": context.splits.train, "data.validation": context.splits.validation[: stage.validation_rows]}
    train, validation = (
        encode_pairs(context.recipe, rows, tokenizer, source=source, notice=context.notice)
        for source, rows in splits.items()
    )
    with context.observer.stage(stage.name, num_steps=stage.num_steps) as observe:
        await train_on_rows(context, stage, entry.sft, observe, train=train, validation=validation)
