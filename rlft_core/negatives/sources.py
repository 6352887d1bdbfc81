"""Bad outputs that take something from outside the output: the input, other rows, the model, users' functions.

Each takes (row, the kind's configuration, corpus, random generator) and gives the text, or None where the row allows
none; `run_on` and `model_samples` also say whether it ended.
"""

from __future__ import annotations

from itertools import islice

import numpy as np

from rlft_core.config.negatives import (
    CopyConfig,
    CustomNegativeConfig,
    IrrelevantConfig,
    ModelSamplesConfig,
    RandomTokensConfig,
    RunOnConfig,
)
from rlft_core.data.encode import plain_ids
from rlft_core.errors import ConfigError
from rlft_core.negatives.corpus import Corpus, Output, custom_name
from rlft_core.negatives.draw import draw_where, pick
from rlft_core.negatives.units import is_unspaced, overlap, plain, units_of
from rlft_core.rewards.rouge import rouge_f1
from rlft_core.types import Row

_TOO_CLOSE = 0.8
"""Another row's output or a piece of the input with at least this share of the output's words is as good as it."""
_LONGEST = 3  # times the output's length, for what is copied
_ATTEMPTS = 8


def random_tokens(row: Row, kind: RandomTokensConfig, corpus: Corpus, rng: np.random.Generator) -> str:
    """As many tokens as the output has, all equally likely."""
    count = len(plain_ids(corpus.tokenizer, row.output.strip()))
    ids = rng.choice(corpus.token_ids, size=max(1, count)).tolist()
    return str(corpus.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def irrelevant(row: Row, kind: IrrelevantConfig, corpus: Corpus, rng: np.random.Generator) -> str | None:
    """The output of a row of another family, which has not nearly the same words."""
    family = corpus.family(row)

    def differs(output: Output) -> bool:
        return family not in output.families and overlap(output.text, row.output) < _TOO_CLOSE

    if not kind.nearest:
        found = draw_where(rng, corpus.outputs, differs)
        return None if found is None else found.text
    ranked = (corpus.outputs[index] for index in corpus.neighbours[kind.model].ranked(row.output))
    nearest = list(islice((output for output in ranked if differs(output)), kind.nearest))
    return pick(rng, nearest).text if nearest else None


def copied(row: Row, kind: CopyConfig, corpus: Corpus, rng: np.random.Generator) -> str | None:
    """The beginning of the input, a span of it, or all of it, unless that is nearly the output itself."""
    parts = units_of(row.input)
    if not parts.units:
        return None
    for _ in range(_ATTEMPTS):
        part = pick(rng, ("lead", "span", "whole")) if kind.part == "any" else kind.part
        length = len(parts) if part == "whole" else min(kind.words or _copied_length(row.output, rng), len(parts))
        start = int(rng.integers(len(parts) - length + 1)) if part == "span" else 0
        text = parts.part(start, start + length)
        if overlap(text, row.output) < _TOO_CLOSE:
            return text
    return None


def run_on(row: Row, kind: RunOnConfig, corpus: Corpus, rng: np.random.Generator) -> tuple[str, bool]:
    """The output, a separator and more. One that does not end is cut somewhere within what was added."""
    text = row.output.strip()
    ended = bool(rng.random() >= kind.unfinished)
    more = _more(row, corpus, rng)
    if not ended:
        parts = units_of(more)
        more = parts.part(0, int(rng.integers(1, len(parts) + 1)))
    return text + pick(rng, _separators(text)) + more, ended


def model_sample(
    row: Row, kind: ModelSamplesConfig, corpus: Corpus, rng: np.random.Generator
) -> tuple[str, bool] | None:
    """One of the row's samples that is not as good as the reference."""

    def is_bad(sample: tuple[str, bool]) -> bool:
        text, _ = sample
        if not text.strip() or plain(text) == plain(row.output):
            return False
        return rouge_f1(text, reference=row.output, variants=("rougeL",))["rougeL"] < kind.max_overlap

    bad = [sample for sample in corpus.samples.get(row.id, ()) if is_bad(sample)]
    return pick(rng, bad) if bad else None


def custom(row: Row, kind: CustomNegativeConfig, corpus: Corpus, rng: np.random.Generator) -> str | None:
    """What the user's function returns. ConfigError naming it and the row when it raises or returns no text."""
    function = corpus.functions[kind.label]
    try:
        text = function(row, rng, **kind.params)
    except Exception as error:  # a user's function may raise anything
        raise ConfigError(
            f"{custom_name(kind)} raised {type(error).__name__} for row '{row.id}': {error}. Correct it, or return None for "
            "rows that allow no negative."
        ) from error
    if text is None or isinstance(text, str):
        return text
    raise ConfigError(
        f"{custom_name(kind)} returned {type(text).__name__} for row '{row.id}'. Return the bad output as a str, or None."
    )


def _copied_length(output: str, rng: np.random.Generator) -> int:
    length = max(1, len(units_of(output)))
    return int(rng.integers(max(1, length // 2), _LONGEST * length + 1))


def _more(row: Row, corpus: Corpus, rng: np.random.Generator) -> str:
    """What a model that does not stop goes on with."""
    own = units_of(row.output)
    source = pick(rng, ("other", "input", "again"))
    if source == "other":
        key = plain(row.output)
        other = draw_where(rng, corpus.outputs, lambda output: plain(output.text) != key)
        if other is not None:
            return other.text.strip()
    parts = units_of(row.input)
    if source == "input" and parts.units:
        length = min(_copied_length(row.output, rng), len(parts))
        start = int(rng.integers(len(parts) - length + 1))
        return parts.part(start, start + length)
    start = int(rng.integers((len(own) + 1) // 2))
    return own.part(start, int(rng.integers(start + 1, len(own) + 1)))


def _separators(text: str) -> tuple[str, ...]:
    if is_unspaced(text):
        return ("\n", " ", "")
    return (" ", "\n", ". ", ", ", " and ") if text[-1].isalnum() else (" ", "\n")
