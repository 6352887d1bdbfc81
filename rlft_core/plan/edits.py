"""Edits and preference pairs that a recipe names, looked at before anything starts: files, functions, the editor's task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlft_core.config.edits import EditorEditsConfig, FileEditsConfig, FunctionEditsConfig
from rlft_core.config.pairs import FilePairsConfig, JudgeRowsConfig
from rlft_core.config.recipe import Recipe
from rlft_core.config.stages import BASE, DpoStage, RewardModelStage, SftStage, pairs_in
from rlft_core.data import Splits, render
from rlft_core.data.load import HUB_PREFIX
from rlft_core.data.preferences import Preferences, load_preferences
from rlft_core.errors import ConfigError
from rlft_core.judging.template import load_template
from rlft_core.models.default_model import resolve_model
from rlft_core.negatives import Contrast
from rlft_core.negatives.edited import SIDES, editing_row, edits_of_file
from rlft_core.negatives.units import plain
from rlft_core.plan.data import naming
from rlft_core.rewards.custom import import_function

if TYPE_CHECKING:
    pass


def check_edits(recipe: Recipe, splits: Splits, base_dir: Path) -> list[str]:
    """Read files of edits, import functions, fill the editor's template. Returns warnings.

    Raises:
        ConfigError, DataError, ModelError: naming the stage's key, and the row where it is one.
    """
    warnings = []
    for stage in recipe.stages:
        if not isinstance(stage, RewardModelStage):
            continue
        key, config = f"stages.{stage.name}.edits", stage.edits
        if isinstance(config, FileEditsConfig):
            warnings += _check_files(recipe, config, splits, base_dir, key)
        elif isinstance(config, FunctionEditsConfig):
            import_function(
                config.function,
                where=f"{key}: function '{config.function}'",
                arguments=("row", "original"),
                params=config.params,
            )
        elif isinstance(config, EditorEditsConfig):
            _check_editor(recipe, config, splits, key)
    return warnings


def _check_files(recipe: Recipe, config: FileEditsConfig, splits: Splits, base_dir: Path, key: str) -> list[str]:
    warnings = []
    tested = {plain(row.input).casefold() for row in splits.test}
    for side in SIDES:
        edits = edits_of_file(config, side, recipe.data, base_dir, key=key)
        if not edits:
            warnings.append(
                f"{key}.validation is not given: nobody will know how well the reward model tells good from bad"
            )
            continue
        with naming(f"{key}.{side}"):
            for contrast in edits:
                render(recipe.data.prompt.template, contrast.row)
        warnings += _of_nothing(edits, f"{key}.{side}")
        shared = sum(plain(contrast.row.input).casefold() in tested for contrast in edits)
        if shared:
            warnings.append(
                f"{key}.{side}: {shared} of {len(edits)} prompts are those of test rows, so the evaluation is no longer of rows "
                "that nothing was trained on"
            )
    return warnings


def _of_nothing(edits: Sequence[Contrast], key: str) -> list[str]:
    same = sum(plain(negative.text) == plain(c.row.output) for c in edits for negative in c.negatives)
    return [f"{key}: {same} edits change nothing and will be left out"] if same else []


def _check_editor(recipe: Recipe, config: EditorEditsConfig, splits: Splits, key: str) -> None:
    if config.model != BASE:
        with naming(f"{key}.model"):
            resolve_model(config.model, trust_remote_code=recipe.model.trust_remote_code)
    if "{original}" not in config.template:
        raise ConfigError(f"{key}.template has no {{original}}, so the editor would not see what to edit; put it in")
    with naming(f"{key}.template"):
        for row in splits.train:
            render(config.template, editing_row(row, "text"))


def check_pairs(recipe: Recipe, splits: Splits, base_dir: Path) -> list[str]:
    """Read the files of preference pairs, and fill the prompt template from each. Returns warnings.

    Raises ConfigError or DataError naming the stage's key, and the row where it is one.
    """
    warnings = []
    tested = {plain(row.input).casefold() for row in splits.test}
    for stage in recipe.stages:
        config = pairs_in(stage)
        key = f"stages.{stage.name}.{'judge.pairs' if isinstance(stage, SftStage) else 'pairs'}"
        if isinstance(stage, SftStage) and stage.judge is not None:
            with naming(f"stages.{stage.name}.judge.template"):
                _check_template(stage.judge, base_dir)
        if not isinstance(config, FilePairsConfig):
            continue
        read: dict[str, Preferences] = {}
        for side, source in {"train": config.train, "validation": config.validation}.items():
            if source is None or source.startswith(HUB_PREFIX):
                continue
            with naming(f"{key}.{side}"):
                found = load_preferences(
                    source,
                    prompt_field=config.prompt_field,
                    chosen_field=config.chosen_field,
                    rejected_field=config.rejected_field,
                    needed=config.fields_needed,
                    base_dir=base_dir,
                )
                if isinstance(stage, DpoStage):  # who learns to judge reads pairs by the judge's template
                    with naming("data.prompt.template (a pair's prompt is {input})"):
                        for pair in found.pairs:
                            render(recipe.data.prompt.template, pair.row)
            read[side] = found
            shared = sum(plain(pair.row.input).casefold() in tested for pair in found.pairs)
            if shared:
                warnings.append(
                    f"{key}.{side}: {shared} of {len(found.pairs)} prompts are those of test rows, so the evaluation is no "
                    "longer of rows that nothing was trained on"
                )
        warnings += [f"{key}{told}" for told in _doubts(read, config)]
    return warnings


def _doubts(read: Mapping[str, Preferences], config: FilePairsConfig) -> list[str]:
    """What a person should know of pairs that can be read."""
    known = {side: {(p.row.input, p.row.output, p.rejected) for p in found.pairs} for side, found in read.items()}
    train, held_out = known.get("train", set()), known.get("validation", set())
    told = [
        f".{side}: {found.num_equal} of {len(found.pairs) + found.num_equal} pairs have no winner and will be left out"
        for side, found in read.items()
        if found.num_equal
    ]
    torn = sum((prompt, rejected, chosen) in train for prompt, chosen, rejected in train) // 2
    if torn:
        told.append(f".train: {torn} pairs stand in both directions; they contradict each other")
    if held_out & train:
        told.append(
            f".validation: {len(held_out & train)} of {len(held_out)} pairs are learned too, so they measure nothing"
        )
    if config.validation is None:
        told.append(
            ": there is no `validation`, so nobody will know how often the better text is preferred; give a file of pairs"
        )
    return told


def _check_template(judge: JudgeRowsConfig, base_dir: Path) -> None:
    """It compares, and has a place for reasons where there are any."""
    template = load_template(judge.template, base_dir=base_dir).comparing()
    reasons = isinstance(judge.pairs, FilePairsConfig) and judge.pairs.rationale_fields is not None
    if reasons and template.rationale is None:
        raise ConfigError(
            f"judge template '{template.name}' has no `rationale`, and pairs.rationale_fields are given; write a template with "
            "one, or leave them out"
        )
