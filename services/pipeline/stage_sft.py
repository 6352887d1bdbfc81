"""The supervised stage: tokenise rows, run the learner, follow its progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray

from rlft_core.config.stages import SftStage
from rlft_core.data import encode_prompt, encode_target
from rlft_core.errors import DataError
from rlft_core.models.loading import load_tokenizer
from rlft_core.types import Row
from rlft_core.updates.sft import Pair
from services.learner import entry
from services.learner.learner import Learner
from services.pipeline.context import RunContext, learner_placement


async def run_sft(context: RunContext, stage: SftStage) -> None:
    """Run or resume a supervised stage; its model is in stages/<name>/model afterwards."""
    start = context.model_of(context.recipe.start_of(stage))
    folder = context.stage_folder(stage.name)
    train = encode_pairs(context, context.splits.train, start)
    validation = encode_pairs(context, context.splits.validation[: stage.validation_rows], start)
    job = entry.Job(context.recipe, stage.name, start, str(folder), context.fingerprints[stage.name])
    learner = Learner(
        entry.sft,
        # In a list, because a ref that stands alone would be resolved on the way.
        {"job": job, "train": [ray.put(train)], "validation": [ray.put(validation)]},
        name=stage.name,
        config=stage.learner,
        placement=learner_placement(stage, context.base_dir),
        storage=folder / "ray",
        notice=context.notice,
    )
    with context.observer.stage(stage.name, num_steps=stage.num_steps) as observe:
        try:
            await learner.start()
            async for step, metrics in learner.progress():
                with observe.step(step) as clock:
                    clock.record(metrics)
            await learner.finish()
        finally:
            await learner.stop()


def encode_pairs(context: RunContext, rows: Sequence[Row], model: str) -> list[Pair]:
    """(prompt, output) token ids. Raises DataError for a pair longer than model.max_length."""
    recipe, prompt = context.recipe, context.recipe.data.prompt
    tokenizer: Any = load_tokenizer(model, trust_remote_code=recipe.model.trust_remote_code)
    pairs: list[Pair] = []
    for row in rows:
        ids = encode_prompt(tokenizer, row, system=prompt.system, template=prompt.template, chat=prompt.chat)
        target = encode_target(tokenizer, row.output)
        if len(ids) + len(target) > recipe.model.max_length:
            if recipe.data.too_long == "skip":
                continue
            raise DataError(
                f"row {row.id}: prompt and output have {len(ids)} + {len(target)} tokens, more than model.max_length "
                f"({recipe.model.max_length}); raise it, shorten the row, or set data.too_long to 'skip'"
            )
        pairs.append((ids, target))
    return pairs
