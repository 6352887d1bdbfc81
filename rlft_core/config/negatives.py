"""Kinds of bad outputs that a reward model learns to tell from the reference: one class for each `kind`.

Only says what is wanted; the making is in `rlft_core.negatives`. The first five kinds are those of the paper on the last
mile of fine-tuning (Solway 2024), the others are ours. Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from rlft_core.config.base import Strict


class _Negative(Strict):
    """What every kind has."""

    kind: str
    """Which kind this is."""
    name: str | None = Field(default=None, min_length=1, pattern=r"^[^/]+$")
    """Name in tables and metrics. Default: the kind."""
    share: NonNegativeFloat = 1.0
    """How often this kind is used, relative to the shares of the others. A row gets no kind twice while it has not had all
    of them. 0: never trained on, only measured."""

    @property
    def label(self) -> str:
        """The kind's name in tables and metrics."""
        return self.name or self.kind


class RandomTokensConfig(_Negative):
    """Tokens drawn at random from the model's vocabulary, as many as the output has."""

    kind: Literal["random_tokens"] = "random_tokens"
    """Which kind this is."""


class IrrelevantConfig(_Negative):
    """The output of another row: good text, but about something else."""

    kind: Literal["irrelevant"] = "irrelevant"
    """Which kind this is."""
    nearest: NonNegativeInt = 0
    """Draw among so many rows whose outputs are most similar by embedding, the hardest to tell; 0 draws among all."""
    model: str = Field(default="default", min_length=1)
    """Embedding model for `nearest`: `default` (all-MiniLM-L6-v2, from its package), a folder or a hub id."""


class ShuffledConfig(_Negative):
    """The output's words in random order; its characters where it has fewer than three words."""

    kind: Literal["shuffled"] = "shuffled"
    """Which kind this is."""


class RepetitiveConfig(_Negative):
    """The output with a part of it repeated."""

    kind: Literal["repetitive"] = "repetitive"
    """Which kind this is."""
    min_times: PositiveInt = 2
    """A part is said at least so often."""
    max_times: PositiveInt = 5
    """A part is said at most so often."""

    @model_validator(mode="after")
    def _range(self) -> RepetitiveConfig:
        if not 2 <= self.min_times <= self.max_times:
            raise ValueError(f"needs 2 <= min_times <= max_times, got {self.min_times} and {self.max_times}")
        return self


class CopyConfig(_Negative):
    """A piece of the input instead of an output."""

    kind: Literal["copy"] = "copy"
    """Which kind this is."""
    part: Literal["any", "lead", "span", "whole"] = "any"
    """Its beginning, a span from anywhere, all of it, or one of these at random."""
    words: PositiveInt | None = None
    """Words in `lead` and `span`. Default: between half and three times as many as the row's output has."""


class TruncatedConfig(_Negative):
    """The output broken off before its end, as if it were complete."""

    kind: Literal["truncated"] = "truncated"
    """Which kind this is."""
    min_kept: float = Field(default=0.2, ge=0.0, lt=1.0)
    """At least this share of the words is kept."""
    max_kept: float = Field(default=0.8, gt=0.0, lt=1.0)
    """At most this share of the words is kept."""

    @model_validator(mode="after")
    def _range(self) -> TruncatedConfig:
        if self.max_kept < self.min_kept:
            raise ValueError(f"max_kept ({self.max_kept}) is below min_kept ({self.min_kept})")
        return self


class RunOnConfig(_Negative):
    """The output, and then more: another row's output, a piece of the input, or the output's own words again."""

    kind: Literal["run_on"] = "run_on"
    """Which kind this is."""
    unfinished: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of them that do not end (no EOS), as when a model is cut off at its token limit."""


class ModelSamplesConfig(_Negative):
    """Samples of the model that the reward model starts from: the mistakes it really makes."""

    kind: Literal["model_samples"] = "model_samples"
    """Which kind this is."""
    per_row: PositiveInt = 2
    """Completions sampled for each training row."""
    temperature: PositiveFloat = 1.0
    """Logits are divided by this before sampling."""
    max_tokens: PositiveInt = 64
    """Longest completion."""
    max_overlap: float = Field(default=0.8, gt=0.0, le=1.0)
    """A sample whose ROUGE-L with the reference is at least this is as good as the reference and not used."""


class HallucinatedConfig(_Negative):
    """The output with numbers or names, or long words where it has neither, exchanged for others from the data."""

    kind: Literal["hallucinated"] = "hallucinated"
    """Which kind this is."""
    max_changes: PositiveInt = 2
    """Most words exchanged in one output."""


class TyposConfig(_Negative):
    """The output with letters swapped, dropped, doubled or replaced by a neighbour on the keyboard."""

    kind: Literal["typos"] = "typos"
    """Which kind this is."""
    rate: float = Field(default=0.3, gt=0.0, le=1.0)
    """Share of the words that get one; at least one word does."""


class DroppedConfig(_Negative):
    """The output with words left out."""

    kind: Literal["dropped"] = "dropped"
    """Which kind this is."""
    max_words: PositiveInt = 1
    """Most words left out of one output."""


class DoubledConfig(_Negative):
    """The output with words said twice in a row."""

    kind: Literal["doubled"] = "doubled"
    """Which kind this is."""
    max_words: PositiveInt = 1
    """Most words doubled in one output."""


class SwappedConfig(_Negative):
    """The output with two neighbouring words in the wrong order."""

    kind: Literal["swapped"] = "swapped"
    """Which kind this is."""


class CustomNegativeConfig(_Negative):
    """Your own kind. `f(row, rng, **params)` returns a bad output as text, or None when the row allows none.

    `row` has id, input, output and fields; `rng` is a seeded `numpy.random.Generator`, the only source of chance allowed.
    """

    kind: Literal["custom"] = "custom"
    """Which kind this is."""
    function: str = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")
    """Where it is: `module:attribute`, for instance `my_negatives:too_formal`."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of every call."""


NegativeConfig = Annotated[
    RandomTokensConfig
    | IrrelevantConfig
    | ShuffledConfig
    | RepetitiveConfig
    | CopyConfig
    | TruncatedConfig
    | RunOnConfig
    | ModelSamplesConfig
    | HallucinatedConfig
    | TyposConfig
    | DroppedConfig
    | DoubledConfig
    | SwappedConfig
    | CustomNegativeConfig,
    Field(discriminator="kind"),
]

PUBLISHED_KINDS: tuple[NegativeConfig, ...] = (
    RandomTokensConfig(),
    IrrelevantConfig(),
    ShuffledConfig(),
    RepetitiveConfig(),
    CopyConfig(),
)
"""The five kinds of the paper, in equal shares."""


def distinct_kinds(kinds: tuple[NegativeConfig, ...]) -> tuple[NegativeConfig, ...]:
    """The kinds themselves, when there is one and their names differ. ValueError otherwise."""
    if not kinds:
        raise ValueError("needs at least one kind, for instance {kind: shuffled}")
    seen: set[str] = set()
    for kind in kinds:
        if kind.label in seen:
            raise ValueError(f"two kinds are called {kind.label!r}: give one of them another `name`")
        seen.add(kind.label)
    if not any(kind.share for kind in kinds):
        raise ValueError("every share is 0, so there is nothing to train on; give one of the kinds a share")
    return kinds


NegativeConfigs = Annotated[tuple[NegativeConfig, ...], AfterValidator(distinct_kinds)]
"""A recipe's kinds of negatives: at least one, with different names."""
