"""The rows a recipe names, against its prompt template, its rewards and its token limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rlft_core.config.negatives import IrrelevantConfig, ModelSamplesConfig, RandomTokensConfig
from rlft_core.config.online import OnlineStage
from rlft_core.config.recipe import Recipe
from rlft_core.config.stages import DpoStage, EvaluateStage, RewardModelStage, SftStage, StageConfig
from rlft_core.data import Splits, check_lengths, encode_prompt, encode_target, placeholders, render
from rlft_core.errors import ConfigError, DataError, ModelError, UserError
from rlft_core.models.default_model import DEFAULT_MODEL, embedding_model_dir, resolve_model
from rlft_core.negatives import make_corpus
from rlft_core.plan.types import PromptLengths
from rlft_core.rewards.check import check_references, check_rewards
from rlft_core.types import Row

if TYPE_CHECKING:  # measured in tokens only where somebody waits for transformers
    from transformers import PreTrainedTokenizerBase


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Put the recipe's key in front of what a user did wrong."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{key}: {error}") from error


def rows_used(stage: StageConfig, splits: Splits) -> tuple[Row, ...]:
    """The rows a stage draws from."""
    if not isinstance(stage, EvaluateStage):
        return splits.train
    rows = splits.test if stage.split == "test" else splits.validation
    return rows[: stage.max_rows] if stage.max_rows else rows


def check_template(recipe: Recipe, splits: Splits) -> list[str]:
    """Fill the prompt template from every row. Returns warnings.

    Raises:
        ConfigError, DataError: a stray brace, or a placeholder that a row cannot fill.
    """
    template = recipe.data.prompt.template
    with naming("data.prompt.template"):
        names = placeholders(template)
        for row in (*splits.train, *splits.validation, *splits.test):
            render(template, row)
    if names:
        return []
    return [f"data.prompt.template has no placeholder such as {{input}}: every row has the same prompt, {template!r}"]


def check_stage_rewards(recipe: Recipe, splits: Splits) -> None:
    """Import users' reward functions, and see that rows have the columns and references that rewards read.

    Raises:
        ConfigError, DataError, ModelError: naming the stage's key.
    """
    for stage in recipe.stages:
        if not isinstance(stage, OnlineStage | EvaluateStage):
            continue
        key = f"stages.{stage.name}.rewards"
        rows = rows_used(stage, splits)
        with naming(key):
            check_rewards(stage.rewards, fields=set.intersection(*(set(row.fields) for row in rows)))
            check_references(stage.rewards, rows)
        if isinstance(stage, OnlineStage) and all(reward.weight == 0 for reward in stage.rewards):
            raise ConfigError(f"{key}: every weight is 0, so there is nothing to learn; give one of them a weight")


def check_negatives(recipe: Recipe, splits: Splits) -> None:
    """See that the rows allow every kind of negative, and import users' kinds, before an hour is spent on the stage before.

    Samples of the model and similarities of meaning come later: here `irrelevant` draws among all rows.

    Raises:
        ConfigError, DataError: naming the stage's key and the kind.
    """
    for stage in recipe.stages:
        if not isinstance(stage, RewardModelStage):
            continue
        needs_more = (ModelSamplesConfig, RandomTokensConfig)
        kinds = [
            kind.model_copy(update={"nearest": 0}) if isinstance(kind, IrrelevantConfig) else kind
            for kind in stage.kinds
            if not isinstance(kind, needs_more)
        ]
        with naming(f"stages.{stage.name}.negatives"):
            make_corpus(splits.train, kinds, family_field=recipe.data.family_field)
            for kind in stage.kinds:
                if isinstance(kind, IrrelevantConfig) and kind.nearest:
                    embedding_model_dir() if kind.model == DEFAULT_MODEL else resolve_model(kind.model)


def check_tokens(
    recipe: Recipe, splits: Splits, tokenizer: PreTrainedTokenizerBase, *, vocab_size: int
) -> dict[str, PromptLengths]:
    """Measure the prompts of every side that a stage uses, and the outputs that supervised stages train on.

    Raises:
        DataError, ModelError: a prompt or a pair that is too long, or a tokenizer that does not belong to the model.
    """
    if len(tokenizer) > vocab_size:
        raise ModelError(
            f"model.name: the tokenizer of {recipe.model.name} has {len(tokenizer)} tokens, its model only "
            f"{vocab_size}; they do not belong together"
        )
    ids: dict[str, list[list[int]]] = {}
    lengths: dict[str, PromptLengths] = {}
    for stage in recipe.stages:
        side = stage.split if isinstance(stage, EvaluateStage) else "train"
        rows = {"train": splits.train, "validation": splits.validation, "test": splits.test}[side]
        if side not in ids:
            ids[side] = _encode(recipe, rows, tokenizer)
        if isinstance(stage, SftStage | RewardModelStage | DpoStage):
            skipped = _check_pairs(recipe, "train", rows, ids[side], tokenizer)
            validation = splits.validation[: stage.validation_rows]
            if validation:
                _check_pairs(recipe, "validation", validation, _encode(recipe, validation, tokenizer), tokenizer)
        else:
            used = rows_used(stage, splits)
            with naming(f"stages.{stage.name}"):
                fitting = check_lengths(
                    used,
                    ids[side][: len(used)],
                    max_prompt_tokens=recipe.data.max_prompt_tokens,
                    max_model_len=recipe.model.max_length,
                    max_new_tokens=stage.sampling.max_tokens if isinstance(stage, OnlineStage) else stage.max_tokens,
                    too_long=recipe.data.too_long,
                    source=f"data.{side}",
                )
            skipped = fitting.num_skipped
        counts = [len(tokens) for tokens in ids[side]]
        before = lengths[side].num_skipped if side in lengths else 0
        lengths[side] = PromptLengths(sum(counts) / len(counts), max(counts), max(skipped, before))
    return lengths


def _encode(recipe: Recipe, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    prompt = recipe.data.prompt
    with naming("data.prompt"):
        return [
            encode_prompt(tokenizer, row, system=prompt.system, template=prompt.template, chat=prompt.chat)
            for row in rows
        ]


def _check_pairs(
    recipe: Recipe, side: str, rows: Sequence[Row], ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase
) -> int:
    """How many pairs of prompt and output are longer than model.max_length. Raises when none may be left out."""
    longest = recipe.model.max_length
    totals = [len(tokens) + len(encode_target(tokenizer, row.output)) for row, tokens in zip(rows, ids, strict=True)]
    over = [index for index, total in enumerate(totals) if total > longest]
    if over and (recipe.data.too_long == "error" or len(over) == len(rows)):
        first = over[0]
        raise DataError(
            f"data.{side}: row {rows[first].id} has {len(ids[first])} tokens of prompt and "
            f"{totals[first] - len(ids[first])} of output, more than model.max_length ({longest}); {len(over)} of "
            f"{len(rows)} rows are too long, the longest has {max(totals)}. Raise model.max_length, shorten the rows, "
            "or set data.too_long to 'skip'"
        )
    return len(over)
