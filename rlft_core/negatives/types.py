"""What is made: bad outputs, each beside the reference of its row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlft_core.types import Row

NO_NEGATIVES = "<row without negatives>"
"""The key of `Made.skipped` that counts rows for which no kind could give anything."""


@dataclass(frozen=True, slots=True)
class Negative:
    """A bad output. `kind` is its kind's label; `ended` says whether it ends by EOS or was cut off."""

    kind: str
    text: str
    ended: bool = True


@dataclass(frozen=True, slots=True)
class Contrast:
    """A row, whose output is the positive, and its bad outputs."""

    row: Row
    negatives: tuple[Negative, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """Contrasts in the order of the rows, how many negatives each kind gave, and how often it could give none.

    `counts` has every kind, `skipped` only those that failed for some row, and `NO_NEGATIVES` for rows left out.
    """

    contrasts: tuple[Contrast, ...]
    counts: Mapping[str, int]
    skipped: Mapping[str, int]
