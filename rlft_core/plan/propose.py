"""From a data file to a recipe: looks at the rows, the model and the machine, and writes down what follows from them.

Writes no file and starts nothing. What it proposes is a start for a person who knows the task: what was measured or
weighed stands beside its number.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import yaml

from rlft_core.config import Recipe, parse_recipe
from rlft_core.config.data import PromptConfig
from rlft_core.config.model import ModelConfig
from rlft_core.data.readers import Record
from rlft_core.errors import DataError, ModelError
from rlft_core.models.default_model import DEFAULT_MODEL
from rlft_core.models.size import ModelSize
from rlft_core.plan.choose_columns import Columns, placeholder
from rlft_core.plan.inspect_rows import Table, Unusable, as_rows, usable_rows
from rlft_core.plan.model import find_model
from rlft_core.plan.propose_data import instruction_for, limits_of, sides_of
from rlft_core.plan.propose_stages import Setup, evaluate_stage, ppo_stage, reward_model_stage, sft_stage
from rlft_core.plan.recipe_text import BLANK, Block, Node, Remark, Setting, recipe_text
from rlft_core.plan.text_shape import OutputShape, TokenLengths, output_shape, token_lengths
from rlft_core.types import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FEW_ROWS = 100
_LARGE_FOR_CPUS = 1_000_000_000
_LARGE_FOR_A_GPU = 3_000_000_000
_SHOWN = 3
_MAX_LENGTH = int(ModelConfig.model_fields["max_length"].default)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asked for, and where things are: paths are as they shall stand in the recipe.

    `rows_file` is where usable rows go when others have to be left out."""

    source: str
    out: str
    rows_file: str
    name: str
    model: str = DEFAULT_MODEL
    instruction: str | None = None


@dataclass(frozen=True, slots=True)
class KnownModel:
    """The model as far as it is on this machine: size and tokenizer are None when it is not."""

    shown: str
    size: ModelSize | None
    tokenizer: PreTrainedTokenizerBase | None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A recipe as text, what is worth knowing about the data, and, where rows were left out, those that are usable."""

    text: str
    notes: tuple[str, ...]
    num_rows: int
    kept: tuple[Record, ...] | None


def known_model(name: str) -> KnownModel:
    """Find a model on this machine and load its tokenizer. Waits for transformers.

    Raises:
        ModelError: as `resolve_model`.
    """
    recipe = parse_recipe({"model": {"name": name}, "data": {"train": "unused"}, "stages": [{"type": "sft"}]})
    found = find_model(recipe, convert=True)
    if found.folder is None:
        return KnownModel(found.name, None, None)
    from rlft_core.models.loading import load_tokenizer  # transformers and torch: seconds

    return KnownModel(found.name, found.size, load_tokenizer(found.folder))


def propose(table: Table, columns: Columns, wish: Wish, *, model: KnownModel, num_gpus: int) -> Proposal:
    """Propose a recipe for the rows of a file.

    Raises:
        DataError: no row is usable, or there are too few to have a side to train, validate and test on.
        ConfigError: the wished name or instruction is none.
    """
    good, bad = usable_rows(table, input_field=columns.input, output_field=columns.output)
    if not good:
        raise DataError(
            f"{table.path}: no row has text both in '{columns.input}' and in '{columns.output}'. Choose other columns with "
            f"--input FIELD and --output FIELD: {table.listed}."
        )
    rows = as_rows(good, stem=table.path.stem, input_field=columns.input, output_field=columns.output)
    shape = output_shape(rows)
    sides = sides_of(rows, columns, table.path, wish.source)
    system = instruction_for(columns, shape) if wish.instruction is None else wish.instruction
    prompt, lengths = _measured([*rows, *sides.from_files], columns, model, system)
    context = model.size.context if model.size is not None else None
    limits = limits_of(lengths, context)
    if limits.num_left_out == len(lengths.prompts):
        raise DataError(
            f"{table.path}: no row fits the model's context of {context:,} tokens: prompts have {min(lengths.prompts):,} or "
            f"more, outputs {min(lengths.outputs):,} or more. Shorten the rows, or give a --model with a longer context."
        )
    limits = replace(limits, max_length=max(limits.max_length, min(_MAX_LENGTH, context or _MAX_LENGTH)))
    setup = Setup(shape, sides, limits, model.size, num_gpus)
    notes = (
        *_row_notes(table, rows, bad, wish),
        *_text_notes(shape, setup, lengths),
        *_model_notes(wish, model, num_gpus),
        *sides.notes,
    )
    source = wish.rows_file if bad else wish.source
    nodes: list[Node] = [
        *_head(table, rows, columns, wish, notes),
        *_model(wish, setup),
        _data(source, setup, columns, _prompt(table, columns, prompt, _instruction_reason(wish, shape))),
        BLANK,
        Block("stages", _stages(setup)),
    ]
    text = recipe_text(nodes)
    _check(text, wish.out)
    return Proposal(text, notes, len(rows), tuple(good) if bad else None)


def _measured(
    rows: Sequence[Row], columns: Columns, model: KnownModel, system: str
) -> tuple[PromptConfig, TokenLengths]:
    """The prompt and its lengths. Some chat templates refuse system messages: then the instruction goes into the prompt."""
    template = columns.template
    try:
        lengths = token_lengths(rows, model.tokenizer, system=system, template=template)
    except ModelError:
        template = f"{system.replace('{', '{{').replace('}', '}}')}\n\n{template}"
        lengths = token_lengths(rows, model.tokenizer, system=None, template=template)
        return PromptConfig(template=template), lengths
    return PromptConfig(system=system, template=template), lengths


def _check(text: str, out: str) -> Recipe:
    """The recipe as `rlft run` will read it: what a person wished for may be no valid name."""
    return parse_recipe(yaml.safe_load(text), source=out)


def _head(table: Table, rows: Sequence[Row], columns: Columns, wish: Wish, notes: Sequence[str]) -> list[Node]:
    out = shlex.quote(wish.out)
    nodes: list[Node] = [
        Remark(
            f"Proposed by rlft init for {table.path.name}: {len(rows):,} rows, {columns.input} -> {columns.output}. A start, "
            "not an optimum: you know the task, and the instruction (data.prompt.system) is worth improving first."
        ),
        Remark(f"     rlft check {out}        # what it will do and take; starts nothing"),
        Remark(f"     rlft negatives {out}    # the bad outputs that stage 2 learns from"),
        Remark(f"     rlft run {out}          # all stages; started again, it goes on where it stopped"),
        Remark(
            "Only what differs from the defaults stands here. Paths are relative to the folder in which rlft is started."
        ),
    ]
    if notes:
        nodes += [Remark("Worth knowing:"), *(Remark(f"- {note}") for note in notes)]
    return [*nodes, Setting("name", wish.name), BLANK]


def _model(wish: Wish, setup: Setup) -> list[Node]:
    inside: list[Node] = []
    if wish.model != DEFAULT_MODEL:
        inside.append(Setting("name", wish.model))
    if setup.limits.max_length != _MAX_LENGTH:
        inside.append(Setting("max_length", setup.limits.max_length, "longest prompt plus output, in tokens"))
    if setup.size is not None and setup.size.num_parameters > _LARGE_FOR_A_GPU:
        inside.append(
            Setting("lora", {"rank": 16}, "adapters only, when memory runs out; set max_lag to 0", active=False)
        )
    return [Block("model", tuple(inside)), BLANK] if inside else []


def _data(source: str, setup: Setup, columns: Columns, prompt: Sequence[Node]) -> Block:
    sides, limits = setup.sides, setup.limits
    why = "rows set aside" if isinstance(sides.validation, int) else ""
    inside: list[Node] = [
        Setting("train", source),
        Setting("validation", sides.validation, why and f"{why}: they choose the best model"),
        Setting(
            "test", sides.test, f"{why}: they are only looked at in the end" if isinstance(sides.test, int) else ""
        ),
    ]
    inside += _fields(columns)
    inside.append(Block("prompt", tuple(prompt)))
    inside.append(Setting("max_prompt_tokens", limits.max_prompt, limits.prompt_reason))
    if limits.skip:
        inside.append(Setting("too_long", "skip", "longer rows are left out and counted"))
    return Block("data", tuple(inside))


def _fields(columns: Columns) -> list[Node]:
    fields: list[Node] = []
    if columns.input != "input":
        fields.append(Setting("input_field", columns.input, f"chosen {columns.input_reason}"))
    if columns.output != "output":
        fields.append(Setting("output_field", columns.output, f"chosen {columns.output_reason}"))
    if columns.id is not None:
        fields.append(Setting("id_field", columns.id))
    if columns.family is not None:
        fields.append(Setting("family_field", columns.family, "rows of one family never stand on two sides"))
    return fields


def _prompt(table: Table, columns: Columns, prompt: PromptConfig, why: str) -> list[Node]:
    if prompt.system is None:
        told = "the instruction stands in front: this model takes no system message"
        return [Setting("template", prompt.template, f"{told}; {why}" if why else told)]
    nodes: list[Node] = [Setting("system", prompt.system, why)]
    if prompt.template != PromptConfig.model_fields["template"].default:
        nodes.append(Setting("template", prompt.template))
    other = next((name for name in columns.others if table.columns[name].fills_templates), None)
    if other is not None:
        more = f"{placeholder(other, columns.input)}\n\n{columns.template}"
        nodes.append(Setting("template", more, "if another column belongs into the prompt", active=False))
    return nodes


def _instruction_reason(wish: Wish, shape: OutputShape) -> str:
    if wish.instruction is not None:
        return ""
    return "say here what a good output is" + (", in the language of the data" if shape.latin_share < 0.5 else "")


def _stages(setup: Setup) -> tuple[Node, ...]:
    stages = (sft_stage(setup), reward_model_stage(setup), ppo_stage(setup), evaluate_stage(setup))
    return tuple(node for stage in stages for node in (stage, BLANK))[:-1]


def _row_notes(table: Table, rows: Sequence[Row], bad: Sequence[Unusable], wish: Wish) -> list[str]:
    notes = []
    if bad:
        shown = "; ".join(f"{row.where}: {row.why}" for row in bad[:_SHOWN]) + ("; ..." if len(bad) > _SHOWN else "")
        notes.append(
            f"{len(bad):,} of {len(table.records):,} rows cannot be used ({shown}). The others stand in {wish.rows_file}, "
            "which the recipe reads; mend the rows and run rlft init again to have them all."
        )
    inputs = Counter(" ".join(row.input.lower().split()) for row in rows)
    repeated = len(rows) - len(inputs)
    if repeated:
        notes.append(
            f"{repeated:,} rows have the same input as an earlier one. They stay on one side of the split; where their "
            "outputs differ, the model is taught each of them."
        )
    if len(rows) < _FEW_ROWS:
        notes.append(
            f"{len(rows)} rows show that everything runs, but the model will learn them by heart and differences will be "
            "chance. Some hundreds are a beginning."
        )
    return notes


def _text_notes(shape: OutputShape, setup: Setup, lengths: TokenLengths) -> list[str]:
    notes = []
    if shape.labels:
        shown = ", ".join(shape.labels[:5]) + (", ..." if shape.num_distinct > 5 else "")
        notes.append(
            f"the outputs are {shape.num_distinct} labels ({shown}): a classification task, in which there is no text to "
            "improve. It will run, with exact matches rewarded, but a classifier is the better tool."
        )
    elif shape.num_distinct == 1:
        notes.append("all outputs are the same, so there is nothing to learn but that one text.")
    if shape.copied_share > 0.5 and not shape.labels:
        notes.append(
            f"{shape.copied_share:.0%} of the outputs stand word for word in their input: the task is to find, not to write."
        )
    if setup.limits.num_left_out:
        notes.append(
            f"{setup.limits.num_left_out:,} of {len(lengths.prompts):,} measured rows are left out: their prompt has more than "
            f"{setup.limits.max_prompt:,} tokens, or prompt and output together more than {setup.limits.max_length:,}."
        )
    if shape.latin_share < 0.5:
        notes.append(
            "the outputs have few Latin letters: ROUGE, which the evaluation reports, sees nothing else. Look at similarity "
            "and samples, or give embedding rewards a model that knows the language."
        )
    return notes


def _model_notes(wish: Wish, model: KnownModel, num_gpus: int) -> list[str]:
    if model.size is None:
        return [
            f"the model {wish.model} is not on this machine: token limits are estimated from characters, and learning rates "
            "are those of a large model. `rlft check` measures once it is here."
        ]
    if not num_gpus and model.size.num_parameters > _LARGE_FOR_CPUS:
        return [
            f"{model.size.num_parameters / 1e9:.1f} billion parameters without a GPU: expect days. The bundled model "
            "(leave --model out) shows in minutes whether the data work."
        ]
    return []


def run_name(text: str) -> str:
    """A run's name from a file's: what becomes a folder must be letters, digits, '.', '_' and '-'."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._") or "last-mile"
