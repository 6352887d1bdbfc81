"""The shape of a data set's outputs, and their lengths in tokens: what the numbers of a recipe are derived from.

Only measures. What follows from it is decided in `propose.py` and `propose_stages.py`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlft_core.data import encode_prompt, encode_target, render
from rlft_core.negatives.units import UNSPACED, is_unspaced
from rlft_core.rewards.text import words_of
from rlft_core.types import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_UNSPACED = re.compile(f"[{UNSPACED}]")
_LATIN = re.compile(r"[a-z0-9]", re.IGNORECASE)
_FACT = re.compile(r"\d|(?<=[\w,;] )[A-Z]")
_MOST_LABELS = 20
_LABEL_WORDS = 4
_CLASSIFIED_ROWS = 20
_MEASURED_ROWS = 2000
_LONGEST_ROWS = 50
_CHAT_TOKENS = 60  # what a chat template adds, where the tokenizer is not there to tell


@dataclass(frozen=True, slots=True)
class OutputShape:
    """Lengths are sorted, in words or, for scripts without spaces, characters. Shares are of rows."""

    num_rows: int
    lengths: tuple[int, ...]
    spaceless: bool
    num_distinct: int
    labels: tuple[str, ...]
    single_line_share: float
    full_stop_share: float
    copied_share: float
    fact_share: float
    latin_share: float
    repeating_share: float

    @property
    def unit(self) -> str:
        """What lengths are counted in."""
        return "characters" if self.spaceless else "words"

    def length(self, share: float) -> int:
        """The length that this share of the outputs does not exceed."""
        return quantile(self.lengths, share)

    def counted(self, length: int) -> str:
        """A length with its unit."""
        return f"{length:,} {self.unit.removesuffix('s') if length == 1 else self.unit}"


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """Tokens of measured rows: prompts [N], outputs with EOS [N]. `exact` is False for an estimate from characters."""

    prompts: tuple[int, ...]
    outputs: tuple[int, ...]
    complete: bool
    exact: bool

    def num_left_out(self, max_prompt: int, max_length: int) -> int:
        """Measured rows that fit neither limit or only one."""
        pairs = zip(self.prompts, self.outputs, strict=True)
        return sum(prompt > max_prompt or prompt + output > max_length for prompt, output in pairs)


def quantile(ordered: Sequence[int], share: float) -> int:
    """The smallest of some sorted numbers that at least this share of them does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def output_shape(rows: Sequence[Row]) -> OutputShape:
    """Measure the outputs of some rows."""
    outputs = [row.output.strip() for row in rows]
    spaceless = is_unspaced("".join(outputs))
    lengths = sorted(len(text) if spaceless else len(text.split()) for text in outputs)
    counted = Counter(outputs)

    def share(matching: int) -> float:
        return matching / len(outputs)

    return OutputShape(
        num_rows=len(outputs),
        lengths=tuple(lengths),
        spaceless=spaceless,
        num_distinct=len(counted),
        labels=_labels(counted, [len(text.split()) for text in outputs]),
        single_line_share=share(sum("\n" not in text for text in outputs)),
        full_stop_share=share(sum(text.endswith((".", "。")) for text in outputs)),
        copied_share=share(sum(text.lower() in row.input.lower() for text, row in zip(outputs, rows, strict=True))),
        fact_share=share(sum(_FACT.search(text) is not None for text in outputs)),
        latin_share=share(sum(_LATIN.search(text) is not None for text in outputs)),
        repeating_share=share(sum(_repeats(text) for text in outputs)),
    )


def token_lengths(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase | None, *, system: str | None, template: str
) -> TokenLengths:
    """Lengths of prompts and outputs, of all rows or, where there are many, of some.

    Beside every n-th row the longest ones are measured. Without a tokenizer: an estimate from characters.
    """
    chosen = _some(rows)
    if tokenizer is None:
        prompts = [_CHAT_TOKENS + _estimate((system or "") + render(template, row)) for row in chosen]
        outputs = [1 + _estimate(row.output) for row in chosen]
    else:
        prompts = [len(encode_prompt(tokenizer, row, system=system, template=template, chat=True)) for row in chosen]
        outputs = [len(encode_target(tokenizer, row.output)) for row in chosen]
    return TokenLengths(tuple(prompts), tuple(outputs), len(chosen) == len(rows), tokenizer is not None)


def _labels(counted: Counter[str], lengths: Sequence[int]) -> tuple[str, ...]:
    """The outputs, when they are a few short labels used again and again; the most frequent first."""
    few = len(counted) <= min(_MOST_LABELS, len(lengths) // 4)
    short = max(lengths) <= _LABEL_WORDS
    if len(lengths) < _CLASSIFIED_ROWS or not few or not short:
        return ()
    return tuple(text for text, _ in counted.most_common())


def _repeats(text: str, *, ngram: int = 4) -> bool:
    words = words_of(text)
    grams = [tuple(words[start : start + ngram]) for start in range(len(words) - ngram + 1)]
    return len(set(grams)) < len(grams)


def _some(rows: Sequence[Row]) -> list[Row]:
    if len(rows) <= _MEASURED_ROWS:
        return list(rows)
    by_length = sorted(range(len(rows)), key=lambda index: len(rows[index].input) + len(rows[index].output))
    step = len(rows) / (_MEASURED_ROWS - _LONGEST_ROWS)
    evenly = {int(step * index) for index in range(_MEASURED_ROWS - _LONGEST_ROWS)}
    return [rows[index] for index in sorted(evenly | set(by_length[-_LONGEST_ROWS:]))]


def _estimate(text: str) -> int:
    """Tokens of a text: one for three characters, and one for each of a script without spaces."""
    dense = len(_UNSPACED.findall(text))
    return dense + math.ceil((len(text) - dense) / 3)
