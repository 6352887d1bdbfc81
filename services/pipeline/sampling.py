"""What a model writes for some rows, for stages that need it before they train: engines that start, answer and end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from rlft_core.batching.schedule import sampling_seed
from rlft_core.config.stages import DpoStage, RewardModelStage, SftStage
from rlft_core.models.loading import load_tokenizer
from rlft_core.negatives.samples import Samples, read_samples, write_samples
from rlft_core.types import Prompt, RolloutGroup, Row
from services.cluster.session import num_gpus_here
from services.pipeline.context import RunContext
from services.pipeline.encoding import encode_prompts
from services.rollout.create import create_fleet
from services.rollout.engine import Sampling
from services.weights.folder import publication_of

SAMPLES = "samples.jsonl"
SamplingStage = SftStage | RewardModelStage | DpoStage


class Drawn(Protocol):
    """How completions are drawn for each row."""

    @property
    def per_row(self) -> int: ...
    @property
    def temperature(self) -> float: ...
    @property
    def max_tokens(self) -> int: ...


async def sample_rows(
    context: RunContext, stage: SamplingStage, model: str, rows: Sequence[Row], drawn: Drawn
) -> Samples:
    """Completions of a model by row id, as (text, ended); made once and kept in the stage's folder.

    A row that stands among `rows` twice is sampled once.
    """
    path = context.stage_folder(stage.name) / SAMPLES
    if path.is_file():
        return read_samples(path)
    rows = list({row.id: row for row in rows}.values())
    recipe = context.recipe
    tokenizer = load_tokenizer(model, trust_remote_code=recipe.model.trust_remote_code)
    fitting = encode_prompts(
        recipe, rows, tokenizer, max_new_tokens=drawn.max_tokens, source="data.train", notice=context.notice
    )
    prompts = [
        Prompt(row, tuple(ids), drawn.per_row, sampling_seed(stage.name, recipe.seed, row.id))
        for row, ids in zip(fitting.rows, fitting.ids, strict=True)
    ]
    context.observer.terminal.line(f"{stage.name}: sampling {drawn.per_row} completions for each of {len(rows)} rows")
    groups = await groups_of(context, stage, model, prompts, Sampling(drawn.temperature, drawn.max_tokens))
    found = {g.prompt.row.id: [(c.text, c.finish_reason == "stop") for c in g.completions] for g in groups}
    write_samples(path, found)
    return found


async def groups_of(
    context: RunContext, stage: SamplingStage, model: str, prompts: Sequence[Prompt], sampling: Sampling
) -> list[RolloutGroup]:
    """Start the stage's engines with a model, ask them, and end them."""
    fleet = create_fleet(
        context.recipe, stage.rollout, model, on_gpu=num_gpus_here() > 0, notice=context.notice, lora=False
    )
    try:
        await fleet.start()
        await fleet.load(await asyncio.to_thread(publication_of, model, 0, context.recipe.model.dtype))
        refs = await asyncio.gather(*fleet.generate(prompts, sampling))
        return list(await asyncio.gather(*refs))
    finally:
        await fleet.stop()
