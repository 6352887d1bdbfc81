"""The supervised stage: tokenise rows and train on them; with `judge`, also on comparisons."""

from __future__ import annotations

import asyncio
from collections import Counter

from rlft_core.batching.sharing import Pair
from rlft_core.config.pairs import FilePairsConfig, JudgeRowsConfig
from rlft_core.config.stages import SftStage
from rlft_core.errors import DataError
from rlft_core.judging.rows import judge_rows, without_equal
from rlft_core.judging.template import load_template
from rlft_core.models.loading import load_tokenizer
from rlft_core.negatives import Contrast
from services.learner import entry
from services.pipeline.context import RunContext
from services.pipeline.encoding import encode_pairs
from services.pipeline.follow import train_on_rows
from services.pipeline.judge_report import RESULT, held_out_report, told
from services.pipeline.pairs import pairs_of
from services.pipeline.record import write_json


async def run_sft(context: RunContext, stage: SftStage) -> None:
    """Run or resume a supervised stage; its model is in stages/<name>/model afterwards."""
    start = context.model_of(context.recipe.start_of(stage))
    tokenizer = load_tokenizer(start, trust_remote_code=context.recipe.model.trust_remote_code)
    imitated = context.splits.train if stage.judge is None or stage.judge.imitate else ()
    splits = {"data.train": imitated, "data.validation": context.splits.validation[: stage.validation_rows]}
    train, validation = (
        encode_pairs(context.recipe, rows, tokenizer, source=source, notice=context.notice)
        for source, rows in splits.items()
    )
    with context.observer.stage(stage.name, num_steps=stage.num_steps) as observe:
        held_out: list[Contrast] = []
        families = [[pair] for pair in train]
        if stage.judge is not None:
            comparisons, held_out = await _comparisons(context, stage, stage.judge, start)
            families = [*families, *comparisons]
        await train_on_rows(context, stage, entry.sft, observe, train=families, validation=validation)
        if stage.judge is not None and any(contrast.negatives for contrast in held_out):
            found = await held_out_report(context, stage, stage.judge, held_out)
            write_json(context.stage_folder(stage.name) / RESULT, found)
            context.observer.terminal.line(told(stage.name, found))


async def _comparisons(
    context: RunContext, stage: SftStage, config: JudgeRowsConfig, start: str
) -> tuple[list[list[Pair]], list[Contrast]]:
    """Rows of comparisons, a task's together, and pairs to measure on. Raises DataError when none fits."""
    sides = await pairs_of(context, stage, config.pairs, start)
    (pairs, num_equal), (held_out, num_equal_held_out) = map(without_equal, sides)
    if num_equal + num_equal_held_out:
        context.notice(
            f"{stage.name}: {num_equal} pairs to learn from and {num_equal_held_out} held out have equal texts and are left out"
        )
    template = load_template(config.template, base_dir=context.base_dir)
    tokenizer = load_tokenizer(start, trust_remote_code=context.recipe.model.trust_remote_code)
    skipped: Counter[str] = Counter()
    limit = context.recipe.model.max_length
    fields = config.pairs.rationale_fields if isinstance(config.pairs, FilePairsConfig) else None
    rows = await asyncio.to_thread(
        judge_rows, pairs, template, tokenizer, max_length=limit, skipped=skipped, rationale_fields=fields
    )
    if not rows:
        raise DataError(
            f"stages.{stage.name}.judge: of {len(pairs)} pairs none has texts that differ and fit into "
            f"model.max_length ({limit}); look at the pairs, or raise it"
        )
    for reason, count in skipped.items():
        context.notice(f"{stage.name}: {count} {reason} take no part")
    beside = " beside the outputs" if config.imitate else ", and nothing else"
    context.observer.terminal.line(f"{stage.name}: {sum(map(len, rows))} comparisons to draw from{beside}")
    return [list(family) for family in rows], held_out
