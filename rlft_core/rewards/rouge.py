"""ROUGE by the `rouge-score` package, with its stemmer. Shared by the reward and the evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


ROUGE_VARIANTS = ("rouge1", "rouge2", "rougeL")


def rouge_f1(text: str, *, reference: str, variants: Sequence[str] = ROUGE_VARIANTS) -> dict[str, float]:
    """F1 = 2PR / (P + R) for each variant, in [0, 1] (Lin 2004, "ROUGE: A Package for Automatic Evaluation").

    Words are lower-cased runs of a-z and 0-9, stemmed (Porter) when longer than three letters. A text or reference
    without such words scores 0.
    """
    scores = _scorer(tuple(variants)).score(reference, text)
    return {variant: float(scores[variant].fmeasure) for variant in variants}


@lru_cache(maxsize=8)
def _scorer(variants: tuple[str, ...]) -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer  # takes a second to import, and not every run needs it

    return RougeScorer(list(variants), use_stemmer=True)
