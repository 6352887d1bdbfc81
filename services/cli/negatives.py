"""What `rlft negatives` shows: rows with one bad output of every kind, and how many each kind gives.

Makes them as the reward-model stage does, from the recipe's rows. Starts nothing: the model's own samples are read from
the run's folder when the stage has already made them, and otherwise left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlft_core.config import Recipe
from rlft_core.config.edits import FileEditsConfig
from rlft_core.config.negatives import ModelSamplesConfig, NegativeConfig, RandomTokensConfig
from rlft_core.config.stages import RewardModelStage
from rlft_core.data.prepare import rows_of
from rlft_core.errors import ConfigError
from rlft_core.negatives import NO_NEGATIVES, Contrast, Made, make_corpus, make_negatives, one_of_each, read_samples
from rlft_core.negatives.edited import edits_of_file
from rlft_core.types import Row

SAMPLES_FILE = "samples.jsonl"
_PLAIN_WIDTH = 100
_MOST_CHARACTERS = 400
_JOINERS = "\u200c\u200d"  # hold the parts of an emoji or a word together; other control characters may mislead


def show_negatives(recipe: Recipe, *, stage_name: str | None, num_shown: int, base_dir: Path, runs_dir: Path) -> None:
    """Make the negatives of a recipe's training rows; print some of them, and a count for every kind.

    Raises:
        ConfigError: no such stage, or several and none is named.
        UserError: as `rows_of`, `make_corpus` and `make_negatives`.
    """
    stage = reward_model_stage(recipe, stage_name)
    samples_file = runs_dir / recipe.name / "stages" / stage.name / SAMPLES_FILE
    samples = read_samples(samples_file) if stage.samples_model is not None and samples_file.exists() else None
    kinds = [kind for kind in stage.kinds if samples is not None or not isinstance(kind, ModelSamplesConfig)]
    console = _console()
    if len(kinds) < len(stage.kinds):
        console.print(Text(_later(stage, samples_file), style="yellow"), soft_wrap=True)
    if not kinds:
        if stage.edits is not None:
            _show_edits(recipe, stage, num_shown, base_dir, console)
        return
    rows = rows_of(recipe.data, base_dir, recipe.seed).train
    corpus = make_corpus(
        rows, kinds, tokenizer=_tokenizer(recipe, kinds), samples=samples, family_field=recipe.data.family_field
    )
    for contrast in one_of_each(evenly(rows, num_shown), corpus, kinds, seed=recipe.seed).contrasts:
        console.print(side_by_side(contrast, kinds))
    made = make_negatives(rows, corpus, kinds, per_row=stage.made_per_row, seed=recipe.seed)
    console.print(summary(made, stage.kinds))
    console.print(Text(_told(made, rows, stage.made_per_row)), soft_wrap=True)


def reward_model_stage(recipe: Recipe, name: str | None) -> RewardModelStage:
    """The stage called `name`, or the recipe's only reward-model stage. ConfigError where that is none or not one."""
    stages = [stage for stage in recipe.stages if isinstance(stage, RewardModelStage)]
    there = ", ".join(stage.name for stage in stages)
    if not stages:
        raise ConfigError(
            f"recipe '{recipe.name}' has no stage of type reward_model, and only these use negatives. Add one, for instance "
            "{type: reward_model} before the ppo stage"
        )
    if name is None:
        if len(stages) > 1:
            raise ConfigError(f"recipe '{recipe.name}' has several reward models: {there}. Choose one with --stage")
        return stages[0]
    found = next((stage for stage in stages if stage.name == name), None)
    if found is None:
        raise ConfigError(f"--stage {name}: the recipe has no reward model of this name; there are: {there}")
    return found


def evenly(rows: Sequence[Row], count: int) -> list[Row]:
    """At most `count` rows, spread evenly from the first on."""
    count = min(count, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]


def _show_edits(recipe: Recipe, stage: RewardModelStage, num_shown: int, base_dir: Path, console: Console) -> None:
    """Edits in a file, original above edited; those that are made while the stage runs cannot be shown yet."""
    if not isinstance(stage.edits, FileEditsConfig):
        where = f"runs/{recipe.name}/stages/{stage.name}/edits.jsonl"
        console.print(
            Text(f"Edits are made of what the model writes while the stage runs; they will be in {where}."),
            soft_wrap=True,
        )
        return
    edits = edits_of_file(stage.edits, "train", recipe.data, base_dir, key=f"stages.{stage.name}.edits")
    count = min(num_shown, len(edits))
    for contrast in (edits[index * len(edits) // count] for index in range(count)):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=False, expand=True)
        table.add_column(no_wrap=True, style="dim")
        table.add_column(ratio=1, overflow="fold")
        table.add_row("input", _shown(contrast.row.input))
        for negative in contrast.negatives:
            table.add_row("original", _shown(negative.text, ended=negative.ended))
        table.add_row("edited", Text(_shown(contrast.row.output).plain, style="green"))
        console.print(table)
    console.print(Text(f"{sum(len(c.negatives) for c in edits):,} edits of {len(edits):,} texts."))


def side_by_side(contrast: Contrast, kinds: Sequence[NegativeConfig]) -> Table:
    """A row: its input, its output, and below each other what every kind made of it."""
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=Text(f"row {contrast.row.id}", style="bold"),
        title_justify="left",
        show_header=False,
        expand=True,
    )
    table.add_column(no_wrap=True, style="dim")
    table.add_column(ratio=1, overflow="fold")
    table.add_row("input", _shown(contrast.row.input))
    table.add_row("reference", Text(_shown(contrast.row.output).plain, style="green"), end_section=True)
    made = {negative.kind: negative for negative in contrast.negatives}
    for kind in kinds:
        negative = made.get(kind.label)
        if negative is None:
            table.add_row(kind.label, Text("none for this row", style="dim italic"))
        else:
            table.add_row(kind.label, _shown(negative.text, ended=negative.ended))
    return table


def summary(made: Made, kinds: Sequence[NegativeConfig]) -> Table:
    """How many negatives each kind gives, and for how many rows it could give none; a dash for kinds left out."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("kind")
    for head in ("share", "made", "skipped"):
        table.add_column(head, justify="right", no_wrap=True)
    whole = sum(kind.share for kind in kinds)
    for kind in kinds:
        counts = ("–", "–")
        if kind.label in made.counts:
            counts = (f"{made.counts[kind.label]:,}", f"{made.skipped.get(kind.label, 0):,}")
        table.add_row(kind.label, f"{kind.share / whole:.0%}", *counts)
    return table


def _told(made: Made, rows: Sequence[Row], per_row: int) -> str:
    told = f"{sum(made.counts.values()):,} negatives for {len(rows):,} training rows, {per_row} asked for each."
    left_out = made.skipped.get(NO_NEGATIVES, 0)
    return f"{told} {left_out:,} of the rows would take no part, having none." if left_out else told


def _later(stage: RewardModelStage, path: Path) -> str:
    assert stage.samples_model is not None
    return (
        f"{stage.samples_model.label}: sampled by an engine while stage '{stage.name}' runs, so not shown here; "
        f"there is no {path} yet."
    )


def _tokenizer(recipe: Recipe, kinds: Sequence[NegativeConfig]) -> Any:
    """The model's tokenizer when a kind needs it: it takes seconds to load, and a hub model's may not be there."""
    if not any(isinstance(kind, RandomTokensConfig) for kind in kinds):
        return None
    from rlft_core.models.default_model import resolve_model
    from rlft_core.models.loading import load_tokenizer

    trusted = recipe.model.trust_remote_code
    return load_tokenizer(resolve_model(recipe.model.name, trust_remote_code=trusted), trust_remote_code=trusted)


def _shown(text: str, *, ended: bool = True) -> Text:
    """A text on one line, long ones shortened, with a mark where it was cut off instead of ended."""
    line = " ⏎ ".join(text.strip().splitlines())
    line = "".join(character if character.isprintable() or character in _JOINERS else "·" for character in line)
    short = line if len(line) <= _MOST_CHARACTERS else line[:_MOST_CHARACTERS].rstrip() + " …"
    return Text.assemble(short, ("" if ended else " ⋯ never ends", "yellow"))


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH)
