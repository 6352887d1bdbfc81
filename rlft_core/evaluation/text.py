"""Metrics of generated text: each a function from samples to one number per sample.

Rewards can be reported beside them, see `rlft_core.evaluation.table`. Nothing here needs the network; embeddings come
from the embedder that the caller loads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from rlft_core.evaluation.faithful import unsupported_names, unsupported_numbers
from rlft_core.rewards.protocol import Sample
from rlft_core.rewards.rouge import ROUGE_VARIANTS, rouge_f1
from rlft_core.rewards.text import repetition, words_of


class Similarity(Protocol):
    """What is needed of an embedder; `rlft_core.rewards.embedding.Embedder` is one."""

    def similarity(self, texts: Sequence[str], others: Sequence[str]) -> list[float]:
        """Cosine of texts[i] and others[i]."""


def rouge(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """`rouge1`, `rouge2`, `rougeL`: F1 against the reference, in [0, 1]."""
    scores = [rouge_f1(sample.text, reference=sample.row.output) for sample in samples]
    return {variant: [score[variant] for score in scores] for variant in ROUGE_VARIANTS}


def similarity_to_reference(samples: Sequence[Sample], embedder: Similarity) -> list[float]:
    """Cosine of the embeddings of text and reference, in [-1, 1]; 0 when either is blank."""
    return embedder.similarity([sample.text.strip() for sample in samples], [sample.row.output for sample in samples])


def num_words(samples: Sequence[Sample]) -> list[float]:
    """Words, separated by white space."""
    return [float(len(sample.text.split())) for sample in samples]


def num_tokens(samples: Sequence[Sample]) -> list[float]:
    """Tokens that the model wrote, the final EOS included."""
    return [float(len(sample.token_ids)) for sample in samples]


def repetition_share(samples: Sequence[Sample]) -> list[float]:
    """How much the text repeats itself, in [0, 1]: repeated word pairs plus repeated long words, as shares."""
    return [repetition(sample.text) for sample in samples]


def ended_by_eos(samples: Sequence[Sample]) -> list[float]:
    """1 when the model ended by itself, 0 when it was cut off."""
    return [float(sample.finish_reason == "stop") for sample in samples]


def copy_rate(samples: Sequence[Sample], *, ngram: int = 3) -> list[float]:
    """Share of the text's n-grams that stand in the input, in [0, 1]; words are compared without case.

    A text of fewer than `ngram` words is one n-gram of all its words; a text without words has 0.
    """
    return [_copied(sample.text, sample.row.input, ngram) for sample in samples]


def length_adjusted(samples: Sequence[Sample], scores: Sequence[float]) -> list[float]:
    """Each score s times exp(1 - max(n, m) / min(n, m)), n and m the words of text and reference; 0 for no words.

    Length-adjusted ROUGE is named by Solway (2024), whose formula we could not read. This one is ours: the brevity
    penalty of BLEU (Papineni et al. 2002) on both sides, so that a text cannot gain by being longer.
    """
    lengths = [(len(sample.text.split()), len(sample.row.output.split())) for sample in samples]
    return [
        score * math.exp(1.0 - max(pair) / min(pair)) if min(pair) else 0.0
        for score, pair in zip(scores, lengths, strict=True)
    ]


def text_metrics(samples: Sequence[Sample], *, embedder: Similarity | None = None) -> dict[str, list[float]]:
    """Every metric of this file and of `rlft_core.evaluation.faithful` by name.

    `similarity_to_reference` only with an embedder; `la_rouge1`, `la_rouge2`, `la_rougeL` are `length_adjusted`.
    """
    rouges = rouge(samples)
    metrics = dict(rouges)
    if embedder is not None:
        metrics["similarity_to_reference"] = similarity_to_reference(samples, embedder)
    return metrics | {
        "num_words": num_words(samples),
        "num_tokens": num_tokens(samples),
        "repetition_share": repetition_share(samples),
        "ended_by_eos": ended_by_eos(samples),
        "copy_rate": copy_rate(samples),
        **{f"la_{variant}": length_adjusted(samples, scores) for variant, scores in rouges.items()},
        "unsupported_numbers": unsupported_numbers(samples),
        "unsupported_names": unsupported_names(samples),
    }


def _copied(text: str, source: str, ngram: int) -> float:
    words = words_of(text)
    size = min(ngram, len(words))
    if size == 0:
        return 0.0
    known = set(_ngrams(words_of(source), size))
    grams = _ngrams(words, size)
    return sum(gram in known for gram in grams) / len(grams)


def _ngrams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
