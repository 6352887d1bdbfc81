"""The supervised stage: tokenise rows, run the learner, follow its progress."""

from __future__ import annotations

import ray

from rlft_core.config.stages import SftStage
from rlft_core.models.loading import load_tokenizer
from services.learner import entry
from services.learner.learner import Learner
from services.pipeline.context import RunContext, learner_placement
from services.pipeline.encoding import encode_pairs


async def run_sft(context: RunContext, stage: SftStage) -> None:
    """Run or resume a supervised stage; its model is in stages/<name>/model afterwards."""
    start = context.model_of(context.recipe.start_of(stage))
    folder = context.stage_folder(stage.name)
    tokenizer = load_tokenizer(start, trust_remote_code=context.recipe.model.trust_remote_code)
    splits = {"data.train": context.splits.train, "data.validation": context.splits.validation[: stage.validation_rows]}
    train, validation = (
        encode_pairs(context.recipe, rows, tokenizer, source=source, notice=context.notice)
        for source, rows in splits.items()
    )
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
