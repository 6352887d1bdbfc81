"""Stages whose learner needs nothing but rows: start it, follow its steps, let it end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray

from rlft_core.config.stages import DpoStage, RewardModelStage, SftStage
from rlft_core.errors import RunStopped
from services.control.desk import Hooks
from services.learner import entry
from services.learner.learner import Learner
from services.observe.observer import StageObserver
from services.pipeline.context import RunContext, learner_placement


async def train_on_rows(
    context: RunContext,
    stage: SftStage | RewardModelStage | DpoStage,
    loop: Callable[[dict[str, Any]], None],
    observe: StageObserver,
    *,
    train: Sequence[Any],
    validation: Sequence[Any],
) -> None:
    """Run or resume the stage's learner on tokenised rows; its model is in stages/<name>/model afterwards.

    Raises RunStopped when it was asked to stop before its last step.
    """
    folder = context.stage_folder(stage.name)
    start = context.model_of(context.recipe.start_of(stage))
    job = entry.Job(context.recipe, stage.name, start, str(folder), context.fingerprints[stage.name])
    learner = Learner(
        loop,
        # In a list, because a ref that stands alone would be resolved on the way.
        {"job": job, "train": [ray.put(train)], "validation": [ray.put(validation)]},
        name=stage.name,
        config=stage.learner,
        placement=learner_placement(stage, context.base_dir),
        storage=folder / "ray",
        notice=context.notice,
    )
    done = 0
    try:
        with context.desk.stage(stage.name, Hooks(stop=learner.halt, actors=learner.actors)):
            await learner.start()
            async for step, metrics in learner.progress():
                with observe.step(step) as clock:
                    clock.record(metrics)
                done = step + 1
            halted = await learner.halted()
        await learner.finish()
        if halted:
            raise RunStopped(f"{stage.name} stopped after step {done} of {stage.num_steps}; its checkpoint is written")
    finally:
        await learner.stop()
