"""The reward-model stage: make or read contrasts, run the learner, say how well it tells good from bad.

[sample the model] ─▶ bad outputs or minimal edits ─▶ token ids ─▶ learner ─▶ model/, result.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rlft_core.config.edits import CorruptedEditsConfig
from rlft_core.config.stages import RewardModelStage
from services.learner import entry
from services.pipeline.context import RunContext
from services.pipeline.edits import edit_contrasts
from services.pipeline.encoding import LEFT_OUT
from services.pipeline.follow import train_on_rows
from services.pipeline.negatives import Negatives, negative_contrasts
from services.pipeline.record import write_json

RESULT = "result.json"


async def run_reward_model(context: RunContext, stage: RewardModelStage) -> None:
    """Run or resume a reward-model stage; its model is in stages/<name>/model afterwards."""
    start = context.model_of(context.recipe.start_of(stage))
    folder = context.stage_folder(stage.name)
    from_rows = stage.edits is None or isinstance(stage.edits, CorruptedEditsConfig)
    make = negative_contrasts if from_rows else edit_contrasts
    with context.observer.stage(stage.name, num_steps=stage.num_steps) as observe:
        found = await make(context, stage, start)
        tell(context, stage, found)
        await train_on_rows(context, stage, entry.reward, observe, train=found.train, validation=found.validation)
    if (folder / RESULT).is_file():
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        result["pairs"] = {"made": dict(found.made), "skipped": dict(found.skipped)}
        write_json(folder / RESULT, result)
        context.observer.terminal.reward_model(stage.name, result)
        doubt(context, stage, result)
    else:
        context.notice(f"{stage.name}: there are no validation rows, so nobody knows how well it tells good from bad")


def tell(context: RunContext, stage: RewardModelStage, found: Negatives) -> None:
    """What was left out, and which kinds never came about: never silently."""
    skipped = {kind: count for kind, count in sorted(found.skipped.items()) if count}
    if skipped:
        told = ", ".join(f"{kind} {count}" for kind, count in skipped.items())
        context.observer.terminal.line(
            f"{stage.name}: could not be made, equal the reference, or are too long, and were replaced or left out: {told}"
        )
    never = [kind.label for kind in stage.kinds if kind.share and not found.made[kind.label]]
    if never:
        context.notice(f"{stage.name}: no row gave a negative of {', '.join(never)}; the reward model will not know it")
    if found.skipped[LEFT_OUT]:
        context.notice(f"{stage.name}: {found.skipped[LEFT_OUT]} rows were left out: {LEFT_OUT}")


def doubt(context: RunContext, stage: RewardModelStage, result: Mapping[str, Any]) -> None:
    """Say so when the model prefers the originals to the edited texts: then the two columns are probably swapped."""
    overall = result["overall"]
    if stage.edits is not None and overall["high"] < 0.5:
        context.notice(
            f"{stage.name}: on held-out edits the original scores higher than the edited text (accuracy "
            f"{overall['mean']:.2f}): are original_field and edited_field swapped there?"
        )
