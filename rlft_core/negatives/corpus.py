"""What generators draw from, collected once: all outputs, words by type, neighbours, samples, tokens, users' functions.

Only what the kinds of a recipe need is collected. The same rows give the same corpus in whatever order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from rlft_core.config.negatives import (
    CopyConfig,
    CustomNegativeConfig,
    HallucinatedConfig,
    IrrelevantConfig,
    ModelSamplesConfig,
    NegativeConfig,
    RandomTokensConfig,
    ShuffledConfig,
    TruncatedConfig,
)
from rlft_core.errors import ConfigError, DataError
from rlft_core.negatives.samples import Samples
from rlft_core.negatives.units import plain, units_of
from rlft_core.negatives.vocabulary import Vocabulary, vocabulary_of
from rlft_core.rewards.custom import import_function
from rlft_core.types import Row


@dataclass(frozen=True, slots=True)
class Output:
    """A text that is the output of rows of these families."""

    text: str
    families: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """Embeddings [N, D] of the corpus' outputs, in its order, where each stands, and what embeds other texts."""

    vectors: np.ndarray
    index: Mapping[str, int]
    embed: Callable[[Sequence[str]], np.ndarray]

    def ranked(self, text: str) -> Iterator[int]:
        """Indices of the outputs, the most similar first."""
        at = self.index.get(plain(text))
        vector = self.embed([text])[0] if at is None else self.vectors[at]
        return (int(index) for index in np.argsort(-(self.vectors @ vector), kind="stable"))


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Everything outside a row that its negatives depend on, as far as the kinds need it.

    `outputs` are the distinct ones, `neighbours` by embedding model, `functions` by kind, `token_ids` those that may be
    drawn at random. `family_field` is the column that says which rows are about the same thing.
    """

    outputs: tuple[Output, ...]
    family_field: str | None = None
    words: Vocabulary | None = None
    neighbours: Mapping[str, Neighbours] = field(default_factory=dict)
    samples: Samples = field(default_factory=dict)
    tokenizer: Any = None
    token_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def family(self, row: Row) -> str:
        """What the row is about: its family, or else its input but for case and white space."""
        return _family(row, self.family_field)


def make_corpus(
    rows: Sequence[Row],
    kinds: Sequence[NegativeConfig],
    *,
    tokenizer: Any = None,
    samples: Samples | None = None,
    family_field: str | None = None,
) -> Corpus:
    """Collect what the kinds draw from.

    Args:
        rows: the rows whose outputs are drawn from, usually those that are trained on.
        kinds: the recipe's kinds of negatives.
        tokenizer: of the model, for `random_tokens`.
        samples: the model's samples by row id, as (text, ended), for `model_samples`.
        family_field: column that groups rows about the same thing, whose outputs are not irrelevant to each other.

    Raises:
        DataError: the rows are too few or too much alike for a kind. Names it and the way out.
        ConfigError: a kind lacks the tokenizer, or a custom function cannot be used.
        ModelError: the embedding model cannot be loaded.
    """
    outputs = _distinct_outputs(rows, family_field)
    for kind in kinds:
        _check(kind, rows, outputs, tokenizer=tokenizer, samples=samples)
    hallucinates = any(isinstance(kind, HallucinatedConfig) for kind in kinds)
    draws_tokens = any(isinstance(kind, RandomTokensConfig) for kind in kinds)
    models = {kind.model for kind in kinds if isinstance(kind, IrrelevantConfig) and kind.nearest}
    texts = [output.text for output in outputs]
    return Corpus(
        outputs=outputs,
        family_field=family_field,
        words=vocabulary_of(texts, [row.input for row in rows]) if hallucinates else None,
        neighbours={model: _neighbours(model, texts) for model in sorted(models)},
        samples=samples or {},
        tokenizer=tokenizer,
        token_ids=_ordinary_tokens(tokenizer) if draws_tokens else np.zeros(0, dtype=np.int64),
        functions={kind.label: _function(kind) for kind in kinds if isinstance(kind, CustomNegativeConfig)},
    )


def custom_name(kind: CustomNegativeConfig) -> str:
    """How messages name a user's function."""
    return f"negatives '{kind.label}': function '{kind.function}'"


def _family(row: Row, family_field: str | None) -> str:
    value = row.fields.get(family_field) if family_field is not None else None
    return plain(row.input).casefold() if value is None else str(value)


def _distinct_outputs(rows: Iterable[Row], family_field: str | None) -> tuple[Output, ...]:
    """The outputs that are not blank, sorted; those that differ only in white space are one."""
    texts: dict[str, str] = {}
    families: dict[str, set[str]] = {}
    for row in rows:
        key = plain(row.output)
        if key:
            texts[key] = min(row.output, texts.get(key, row.output))
            families.setdefault(key, set()).add(_family(row, family_field))
    return tuple(Output(texts[key], frozenset(families[key])) for key in sorted(texts))


def _check(
    kind: NegativeConfig, rows: Sequence[Row], outputs: Sequence[Output], *, tokenizer: Any, samples: Samples | None
) -> None:
    """Raise for a kind that these rows can never give."""
    problem = None
    if not outputs:
        problem = f"none of the {len(rows)} rows has an output. Negatives are made beside outputs: fill them in"
    elif isinstance(kind, IrrelevantConfig | HallucinatedConfig) and len(outputs) < 2:
        problem = f"takes from the outputs of other rows, but all {len(rows)} have the same one. Give more rows"
    elif isinstance(kind, CopyConfig) and not any(row.input.strip() for row in rows):
        problem = f"copies from the input, but all {len(rows)} rows have a blank one. Correct data.input_field"
    elif isinstance(kind, TruncatedConfig) and all(len(units_of(output.text)) < 2 for output in outputs):
        problem = "breaks off after a word, but every output is a single one. Give longer ones"
    elif isinstance(kind, ShuffledConfig) and all(
        len(set(units_of(output.text, least_words=3).units)) < 2 for output in outputs
    ):
        problem = "needs two different words or letters, but no output has them. Give longer ones"
    elif isinstance(kind, ModelSamplesConfig) and not any((samples or {}).values()):
        problem = "there are no samples of the model, which the reward-model stage makes while it runs. Give them"
    if problem is not None:
        raise DataError(f"negatives '{kind.label}': {problem}, or leave this kind out.")
    if isinstance(kind, RandomTokensConfig) and tokenizer is None:
        raise ConfigError(
            f"negatives '{kind.label}': needs the model's tokenizer to draw tokens from; give one, or leave this kind out."
        )


def _neighbours(model: str, texts: Sequence[str]) -> Neighbours:
    from rlft_core.rewards.embedding import shared_embedder  # imports torch, which most kinds can do without

    embedder = shared_embedder(model)
    index = {plain(text): at for at, text in enumerate(texts)}
    return Neighbours(embedder.embed(texts), index, partial(embedder.embed, cached=True))


def _ordinary_tokens(tokenizer: Any) -> np.ndarray:
    """Ids of tokens that are text: no special ones, and no lone pieces of a character, which no text can hold."""
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    special = added | set(tokenizer.all_special_ids)
    ids = [index for index in range(len(tokenizer)) if index not in special]
    texts = tokenizer.batch_decode([[index] for index in ids], clean_up_tokenization_spaces=False)
    return np.array([index for index, text in zip(ids, texts, strict=True) if text and "\ufffd" not in text])


def _function(kind: CustomNegativeConfig) -> Callable[..., Any]:
    return import_function(kind.function, where=custom_name(kind), arguments=("row", "rng"), params=kind.params)
