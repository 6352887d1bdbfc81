"""Where minimal edits come from: one class for each `source`, joined in the union `EditsConfig`.

An edit is a pair of texts for one prompt, an original and what became of it when as little as possible was changed; the
edited text is the better one. Only says what is wanted; the making is in `rlft_core.negatives`. Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from rlft_core.config.base import Strict
from rlft_core.config.negatives import (
    DoubledConfig,
    DroppedConfig,
    HallucinatedConfig,
    NegativeConfigs,
    SwappedConfig,
    TyposConfig,
)

EDITOR_SYSTEM = (
    "You correct texts. Change as few words as possible, keep everything else exactly as it is, and answer with the "
    "corrected text only."
)
EDITOR_TEMPLATE = "{input}\n\nA good answer: {reference}\n\nText to correct: {original}"
CORRECTED = "corrected"
"""Kind of an edit that a function, a model or a person made."""


class _Edits(Strict):
    """What every source has."""

    source: str
    """Where edits come from."""
    min_kept: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Least share of the tokens of both texts that stay untouched; an edit that changes more is left out and counted."""


class FileEditsConfig(_Edits):
    """Rows with both texts, in files like those of `data` and with its input column."""

    source: Literal["file"] = "file"
    """Where edits come from."""
    train: str
    """File of edits to train on."""
    validation: str | None = None
    """File of edits to measure on."""
    original_field: str = "original"
    """Column with the text before."""
    edited_field: str = "edited"
    """Column with the text after."""


class CorruptedEditsConfig(_Edits):
    """Outputs of the rows, damaged a little: the undamaged one is the edited text. Every epoch damages anew."""

    source: Literal["corrupted"] = "corrupted"
    """Where edits come from."""
    kinds: NegativeConfigs = (
        TyposConfig(),
        HallucinatedConfig(),
        DroppedConfig(),
        DoubledConfig(),
        SwappedConfig(),
    )
    """Kinds of damage, by share."""
    per_row: PositiveInt = 3
    """Damaged texts for each row."""


class _SampledEdits(_Edits):
    """Originals are what the model that the stage starts from writes."""

    per_row: PositiveInt = 1
    """Originals sampled for each row."""
    temperature: PositiveFloat = 1.0
    """Logits are divided by this when originals are sampled."""
    max_tokens: PositiveInt = 64
    """Longest original, and longest edited text."""


class FunctionEditsConfig(_SampledEdits):
    """Your own function edits what the model wrote.

    `f(row, original, **params)` returns the corrected text, or None where there is nothing to correct.
    """

    source: Literal["function"] = "function"
    """Where edits come from."""
    function: str = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")
    """Where it is: `module:attribute`, for instance `my_edits:correct_units`."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of every call."""


class EditorEditsConfig(_SampledEdits):
    """A language model edits what the policy wrote; the first of its answers that is a minimal edit is taken."""

    source: Literal["editor"] = "editor"
    """Where edits come from."""
    model: str = "base"
    """`base`, or the folder of a larger model: it needs to follow instructions."""
    system: str = EDITOR_SYSTEM
    """System message of the editor."""
    template: str = EDITOR_TEMPLATE
    """The editor's task. `{original}` is the text to edit, `{reference}` the row's output; columns as in data.prompt."""
    attempts: PositiveInt = 3
    """Answers asked for each original."""
    editor_temperature: NonNegativeFloat = 0.7
    """Logits are divided by this when answers are sampled."""


EditsConfig = Annotated[
    FileEditsConfig | CorruptedEditsConfig | FunctionEditsConfig | EditorEditsConfig, Field(discriminator="source")
]
SampledEditsConfig = FunctionEditsConfig | EditorEditsConfig
