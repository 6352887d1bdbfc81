"""Rewards that need nothing but the text: regular expression, ending, repetition, exact match, ROUGE.

The functions take plain values and hold the formulas; the classes read a configuration and apply them to samples.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from rlft_core.config.rewards import (
    EndsProperlyConfig,
    ExactMatchConfig,
    RegexConfig,
    RepetitionConfig,
    RougeConfig,
)
from rlft_core.rewards.protocol import Sample, reference_of
from rlft_core.rewards.rouge import rouge_f1

_WORD = re.compile(r"[^\W_]+")
_ARTICLE = re.compile(r"\b(?:a|an|the)\b", re.IGNORECASE)
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))


def words_of(text: str) -> list[str]:
    """Letters and digits in runs, without case: "It's 2-fold" -> it, s, 2, fold."""
    return _WORD.findall(text.casefold())


def pattern_reward(text: str, *, pattern: str, must_match: bool) -> float:
    """1 if the pattern is found anywhere in `text` (or, without `must_match`, nowhere), else 0."""
    return float((re.search(pattern, text) is not None) == must_match)


def repeated_share(items: Sequence[Hashable]) -> float:
    """Share of items that were there before: 1 - distinct / all, and 0 for no items."""
    return 1.0 - len(set(items)) / len(items) if items else 0.0


def repetition(text: str, *, ngram: int = 2, long_word_chars: int = 4) -> float:
    """How much a text repeats itself, in [0, 1]: min(1, repeated n-grams + repeated long words).

    Both terms are shares: of the n-grams, and of the words of at least `long_word_chars` characters (0: no second
    term), those seen before. Short words are left out of the second because "of the ... of the" is no fault.
    """
    words = words_of(text)
    grams = [tuple(words[start : start + ngram]) for start in range(len(words) - ngram + 1)]
    long_words = [word for word in words if len(word) >= long_word_chars] if long_word_chars > 0 else []
    return min(1.0, repeated_share(grams) + repeated_share(long_words))


def normalised(text: str, *, case: bool, punctuation: bool, articles: bool) -> str:
    """`text` in Unicode form NFKC with single spaces, without the things whose flag is set."""
    text = unicodedata.normalize("NFKC", text)
    if case:
        text = text.casefold()
    if punctuation:
        text = text.translate(_PUNCTUATION)
    if articles:
        text = _ARTICLE.sub(" ", text)
    return " ".join(text.split())


@dataclass(frozen=True, slots=True)
class RegexReward:
    """A pattern that must, or must not, be found."""

    config: RegexConfig

    @property
    def name(self) -> str:
        return self.config.label

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        must_match = self.config.mode == "must_match"
        return [pattern_reward(s.text, pattern=self.config.pattern, must_match=must_match) for s in samples]


@dataclass(frozen=True, slots=True)
class EndsProperlyReward:
    """1 when the completion ended by EOS."""

    config: EndsProperlyConfig

    @property
    def name(self) -> str:
        return self.config.label

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        return [float(sample.finish_reason == "stop") for sample in samples]


@dataclass(frozen=True, slots=True)
class RepetitionReward:
    """Minus the repetition of the text: a penalty in [-1, 0]."""

    config: RepetitionConfig

    @property
    def name(self) -> str:
        return self.config.label

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        ngram, long_word_chars = self.config.ngram, self.config.long_word_chars
        return [0.0 - repetition(s.text, ngram=ngram, long_word_chars=long_word_chars) for s in samples]


@dataclass(frozen=True, slots=True)
class ExactMatchReward:
    """1 when text and reference are the same after normalisation."""

    config: ExactMatchConfig

    @property
    def name(self) -> str:
        return self.config.label

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        return [float(self._normal(sample.text) == self._normal(reference_of(sample))) for sample in samples]

    def _normal(self, text: str) -> str:
        config = self.config
        return normalised(
            text, case=config.ignore_case, punctuation=config.ignore_punctuation, articles=config.ignore_articles
        )


@dataclass(frozen=True, slots=True)
class RougeReward:
    """ROUGE F1 of the text against the reference."""

    config: RougeConfig

    @property
    def name(self) -> str:
        return self.config.label

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        variant = self.config.variant
        return [rouge_f1(s.text, reference=reference_of(s), variants=(variant,))[variant] for s in samples]
