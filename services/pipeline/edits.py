"""Minimal edits for a reward-model stage: read from files, or made of what the model writes.

    file ──────────────────────────────────────▶ contrasts ─▶ token ids, with the tokens that differ
    rows ─▶ [sample the model] ─▶ [edit: function, or a model] ─▶ edits.jsonl ─▶ ...

What an engine made is kept in the stage's folder, so that an interrupted stage does not ask again.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlft_core.batching.schedule import rows_of_step, sampling_seed
from rlft_core.config.edits import EditorEditsConfig, FileEditsConfig, FunctionEditsConfig
from rlft_core.config.stages import BASE, RewardModelStage
from rlft_core.data import encode_prompt, plain_ids
from rlft_core.edits import kept_share, pieces
from rlft_core.errors import DataError
from rlft_core.models.default_model import resolve_model
from rlft_core.models.loading import load_tokenizer
from rlft_core.negatives import Contrast, Negative
from rlft_core.negatives.edited import SIDES, editing_row, edits_of_editor, edits_of_file, edits_of_function, grouped
from rlft_core.negatives.samples import Samples
from rlft_core.types import Prompt, Row
from services.pipeline.context import RunContext
from services.pipeline.encoding import encode_contrasts
from services.pipeline.negatives import Negatives, epoch_rows
from services.pipeline.sampling import groups_of, sample_rows
from services.rollout.engine import Sampling

EDITS = "edits.jsonl"
Sides = dict[str, list[Contrast]]
"""Edits to train on, and to measure on."""


async def edit_contrasts(context: RunContext, stage: RewardModelStage, start: str) -> Negatives:
    """All contrasts of the stage, tokenised, in the order of training. Raises DataError when none is left."""
    found = Negatives([], [], Counter(), Counter())
    if isinstance(stage.edits, FileEditsConfig):
        edits = _read_files(context, stage, stage.edits)
    else:
        edits = await _sampled(context, stage, start, found.skipped)
    return await asyncio.to_thread(_encoded, context, stage, start, edits, found)


def _read_files(context: RunContext, stage: RewardModelStage, config: FileEditsConfig) -> Sides:
    key, data = f"stages.{stage.name}.edits", context.recipe.data
    return {side: edits_of_file(config, side, data, context.base_dir, key=key) for side in SIDES}


async def _sampled(context: RunContext, stage: RewardModelStage, start: str, skipped: Counter[str]) -> Sides:
    """Sample the model for all rows and have the samples edited, or read what an earlier attempt made."""
    rows = {
        "train": epoch_rows(context, 0)[: stage.num_steps * stage.batch_rows],
        "validation": context.splits.validation[: stage.validation_rows],
    }
    every = {row.id: row for side in rows.values() for row in side}
    path = context.stage_folder(stage.name) / EDITS
    if path.is_file():
        made = read_edits(path, every)
    else:
        made = await _made(context, stage, start, list(every.values()), skipped)
        write_edits(path, made)
    held_out = {row.id for row in rows["validation"]}
    return {
        "train": [contrast for contrast in made if contrast.row.id not in held_out],
        "validation": [contrast for contrast in made if contrast.row.id in held_out],
    }


async def _made(
    context: RunContext, stage: RewardModelStage, start: str, rows: Sequence[Row], skipped: Counter[str]
) -> list[Contrast]:
    config = stage.sampled_edits
    assert config is not None
    originals = await sample_rows(context, stage, start, rows, config)
    if isinstance(config, FunctionEditsConfig):
        key = f"stages.{stage.name}.edits"
        return await asyncio.to_thread(edits_of_function, config, rows, originals, key=key, skipped=skipped)
    return await _by_editor(context, stage, config, rows, originals, skipped)


async def _by_editor(
    context: RunContext,
    stage: RewardModelStage,
    config: EditorEditsConfig,
    rows: Sequence[Row],
    originals: Samples,
    skipped: Counter[str],
) -> list[Contrast]:
    trusted = context.recipe.model.trust_remote_code
    model = context.base_model if config.model == BASE else str(resolve_model(config.model, trust_remote_code=trusted))
    tokenizer = load_tokenizer(model, trust_remote_code=trusted)
    room = context.recipe.model.max_length - config.max_tokens
    asked: list[tuple[str, int]] = []
    prompts: list[Prompt] = []
    drawn = [(row, n, text) for row in rows for n, (text, _) in enumerate(originals.get(row.id, ()))]
    for row, number, text in drawn:
        edit = editing_row(row, text)
        ids = encode_prompt(tokenizer, edit, system=config.system, template=config.template, chat=True)
        if len(ids) > room:
            continue
        seed = sampling_seed(stage.name, "editor", context.recipe.seed, row.id, number)
        asked.append((row.id, number))
        prompts.append(Prompt(edit, tuple(ids), config.attempts, seed))
    if not prompts:
        raise DataError(
            f"stages.{stage.name}.edits: every task for the editor is longer than model.max_length - edits.max_tokens ({room}); "
            "raise the first, or shorten edits.template"
        )
    groups = await groups_of(context, stage, model, prompts, Sampling(config.editor_temperature, config.max_tokens))
    answers = {
        key: [completion.text for completion in group.completions] for key, group in zip(asked, groups, strict=True)
    }

    def acceptable(original: str, edited: str) -> bool:
        sides = (pieces(tokenizer, plain_ids(tokenizer, text)) for text in (original, edited))
        return kept_share(*sides) >= config.min_kept

    return edits_of_editor(rows, originals, answers, acceptable, skipped=skipped)


def _encoded(context: RunContext, stage: RewardModelStage, start: str, edits: Sides, found: Negatives) -> Negatives:
    assert stage.edits is not None
    tokenizer = load_tokenizer(start, trust_remote_code=context.recipe.model.trust_remote_code)
    encoded = {
        side: encode_contrasts(
            context.recipe,
            contrasts,
            tokenizer,
            skipped=found.skipped if side == "train" else Counter(),
            marked=True,
            min_kept=stage.edits.min_kept,
        )
        for side, contrasts in edits.items()
    }
    rows = encoded["train"]
    if not rows:
        raise DataError(
            f"{stage.name}: of {len(edits['train'])} edits none can be trained on: {dict(found.skipped)}. Look at the edits, "
            "lower edits.min_kept, or raise model.max_length"
        )
    total = stage.num_steps * stage.batch_rows
    order = rows_of_step(0, num_rows=len(rows), per_step=total, seed=context.recipe.seed)
    found.train = [rows[index] for index in order]
    found.validation = encoded["validation"][: stage.validation_rows]
    found.made.update(kind for contrast in rows for kind in contrast.kinds)
    return found


def write_edits(path: Path, contrasts: Sequence[Contrast]) -> None:
    """One line for each edit; written aside and renamed."""
    aside = path.with_name(f".{path.name}")
    with aside.open("w", encoding="utf-8") as file:
        for contrast in contrasts:
            for negative in contrast.negatives:
                line = {"id": contrast.row.id, "original": negative.text, "edited": contrast.row.output}
                file.write(
                    json.dumps({**line, "kind": negative.kind, "ended": negative.ended}, ensure_ascii=False) + "\n"
                )
    aside.replace(path)


def read_edits(path: Path, rows: dict[str, Row]) -> list[Contrast]:
    """Inverse of `write_edits`. Raises DataError naming the file when it is damaged, or of other rows."""
    found: list[tuple[Row, Negative]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            edit: dict[str, Any] = json.loads(line)
            row = replace(rows[edit["id"]], output=str(edit["edited"]))
            found.append((row, Negative(str(edit["kind"]), str(edit["original"]), bool(edit["ended"]))))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}, line {number}: no edit of this run's rows. Delete the file: the stage makes it again."
            ) from error
    return grouped(found)
