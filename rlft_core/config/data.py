"""Where the rows are and how a row becomes a prompt."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from rlft_core.config.base import Strict


class PromptConfig(Strict):
    """How a row becomes a prompt."""

    template: str = "{input}"
    """The user's turn. `{field}` inserts a column of the row; `{input}` the input column; `{{` is a brace."""
    system: str | None = None
    """System message. Replaces the chat template's own default."""
    chat: bool = True
    """Use the tokenizer's chat template when it has one."""


class DataConfig(Strict):
    """The rows: JSONL, JSON, CSV, TSV, Parquet files, or `hf:org/name` for a hub data set."""

    train: str
    """File of training rows."""
    validation: str | int | float | None = None
    """File of validation rows, or how many (or which share) of the training rows to set aside."""
    test: str | int | float | None = None
    """File of test rows, or how many (or which share) of the training rows to set aside."""
    input_field: str = "input"
    """Column that goes in."""
    output_field: str = "output"
    """Column that should come out."""
    id_field: str | None = None
    """Column that names the row; the line number otherwise."""
    family_field: str | None = None
    """Column that groups near-duplicates: a family never stands on two sides of a split."""
    prompt: PromptConfig = PromptConfig()
    """How a row becomes a prompt."""
    max_prompt_tokens: PositiveInt = 384
    """Longest prompt allowed."""
    too_long: Literal["error", "skip"] = "error"
    """What to do with a row whose prompt is longer: stop, or leave it out and count it."""
    on_two_sides: Literal["error", "allow"] = "error"
    """Rows whose input (or family) stands on two sides of the split: stop, or go on and say how many."""
    limit: NonNegativeInt = Field(default=0)
    """Use only this many training rows; 0 means all."""
