"""Which function makes which kind. A new kind is a configuration class, a function and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rlft_core.config.negatives import (
    CopyConfig,
    CustomNegativeConfig,
    DoubledConfig,
    DroppedConfig,
    HallucinatedConfig,
    IrrelevantConfig,
    ModelSamplesConfig,
    NegativeConfig,
    RandomTokensConfig,
    RepetitiveConfig,
    RunOnConfig,
    ShuffledConfig,
    SwappedConfig,
    TruncatedConfig,
    TyposConfig,
)
from rlft_core.negatives import edits, sources
from rlft_core.negatives.corpus import Corpus
from rlft_core.negatives.hallucinate import hallucinated
from rlft_core.negatives.types import Negative
from rlft_core.negatives.units import framed
from rlft_core.types import Row

Generator = Callable[[Row, Any, Corpus, np.random.Generator], str | tuple[str, bool] | None]


def _shuffled(row: Row, kind: ShuffledConfig, corpus: Corpus, rng: np.random.Generator) -> str | None:
    return edits.shuffled(row.output, rng)


def _repetitive(row: Row, kind: RepetitiveConfig, corpus: Corpus, rng: np.random.Generator) -> str | None:
    return edits.repetitive(row.output, rng, min_times=kind.min_times, max_times=kind.max_times)


def _truncated(row: Row, kind: TruncatedConfig, corpus: Corpus, rng: np.random.Generator) -> str | None:
    return edits.truncated(row.output, rng, min_kept=kind.min_kept, max_kept=kind.max_kept)


def _typos(row: Row, kind: TyposConfig, corpus: Corpus, rng: np.random.Generator) -> str | None:
    return edits.typos(row.output, rng, rate=kind.rate)


def _dropped(row: Row, kind: DroppedConfig, corpus: Corpus, rng: np.random.Generator) -> str | None:
    return edits.dropped(row.output, rng, max_words=kind.max_words)


def _doubled(row: Row, kind: DoubledConfig, corpus: Corpus, rng: np.random.Generator) -> str | None:
    return edits.doubled(row.output, rng, max_words=kind.max_words)


def _swapped(row: Row, kind: SwappedConfig, corpus: Corpus, rng: np.random.Generator) -> str | None:
    return edits.swapped(row.output, rng)


def _hallucinated(row: Row, kind: HallucinatedConfig, corpus: Corpus, rng: np.random.Generator) -> str | None:
    assert corpus.words is not None, "the corpus was made for other kinds"
    return hallucinated(row, corpus.words, rng, max_changes=kind.max_changes)


GENERATORS: Mapping[type[object], Generator] = {
    RandomTokensConfig: sources.random_tokens,
    IrrelevantConfig: sources.irrelevant,
    ShuffledConfig: _shuffled,
    RepetitiveConfig: _repetitive,
    CopyConfig: sources.copied,
    TruncatedConfig: _truncated,
    RunOnConfig: sources.run_on,
    ModelSamplesConfig: sources.model_sample,
    HallucinatedConfig: _hallucinated,
    TyposConfig: _typos,
    DroppedConfig: _dropped,
    DoubledConfig: _doubled,
    SwappedConfig: _swapped,
    CustomNegativeConfig: sources.custom,
}

_AS_THEY_ARE = (ModelSamplesConfig, CustomNegativeConfig)
"""Kinds whose outer white space is what the model or the user wrote; the others get that of the row's output."""


def generate(row: Row, kind: NegativeConfig, corpus: Corpus, rng: np.random.Generator) -> Negative | None:
    """One negative of a kind, or None where the row allows none. It may be blank or equal to the output."""
    made = GENERATORS[type(kind)](row, kind, corpus, rng)
    if made is None:
        return None
    text, ended = (made, True) if isinstance(made, str) else made
    if not isinstance(kind, _AS_THEY_ARE):
        text = framed(text, like=row.output, ended=ended)
    return Negative(kind.label, text, ended)
