"""Where preference pairs come from: one class for each `source`, joined in the union `PairsConfig`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from rlft_core.config.base import Strict

REJECTED = "rejected"
"""Kind of the text that was not preferred."""


class FilePairsConfig(Strict):
    """Pairs in files: texts, or conversations in the common shapes."""

    source: Literal["file"] = "file"
    """Where pairs come from."""
    train: str
    """File of pairs, or `hf:org/name`."""
    validation: str | None = None
    """File of pairs to measure on."""
    prompt_field: str = "prompt"
    """Column with the task; may be missing where both answers are conversations that begin alike."""
    chosen_field: str = "chosen"
    """Column with the preferred answer."""
    rejected_field: str = "rejected"
    """Column with the other answer."""
    rationale_fields: tuple[str, str] | None = None
    """Columns that say why, of the preferred and of the other answer; only for learning to judge, where they are learned behind
    the judgement."""

    @property
    def fields_needed(self) -> tuple[str, ...]:
        """Columns that must be texts besides the answers."""
        return self.rationale_fields or ()


class SampledPairsConfig(Strict):
    """The row's own output is preferred to what the model that the stage starts from writes."""

    source: Literal["samples"] = "samples"
    """Where pairs come from."""
    per_row: PositiveInt = 1
    """Completions sampled for each row."""
    temperature: PositiveFloat = 1.0
    """Logits are divided by this before sampling."""
    max_tokens: PositiveInt = 64
    """Longest completion."""


PairsConfig = Annotated[FilePairsConfig | SampledPairsConfig, Field(discriminator="source")]


class JudgeRowsConfig(Strict):
    """Rows that teach a model to judge (judge-augmented supervised fine-tuning, Lee et al. 2024): both orders of every pair,
    with the judgement token as the only target."""

    pairs: PairsConfig
    """Which texts are preferred to which."""
    template: str = "better-answer"
    """How a comparison is put: `better-answer`, `faithful-summary`, `helpful-harmless`, `instruction-following`, or a file."""
    imitate: bool = True
    """Learn the rows' outputs beside the comparisons; `false` makes a model that only judges."""
