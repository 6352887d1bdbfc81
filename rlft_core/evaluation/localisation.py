"""How well a model's token rewards find the tokens that an edit touched: areas under the ROC and precision-recall curves.

Ties count as half an error, as everywhere in evaluation; nothing here knows where the rewards come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlft_core.evaluation.bootstrap import interval


@dataclass(frozen=True, slots=True)
class MarkedText:
    """One text: `suspicion` [T], high where the model finds a token to be touched, and `touched` [T], where it was."""

    kind: str
    suspicion: np.ndarray
    touched: np.ndarray


def localisation_report(texts: Sequence[MarkedText], *, seed: int = 0) -> dict[str, Any] | None:
    """`auc` and `average_precision` over the tokens of all texts together, `share` of tokens touched (the average
    precision of guessing), `by_text`: interval of the AUC within a text, over the `n` texts that have tokens of both
    sorts; `kinds`: AUC within a text by kind. None when no text has both sorts."""
    both = [text for text in texts if text.touched.any() and not text.touched.all()]
    if not both:
        return None
    suspicion = np.concatenate([text.suspicion for text in texts])
    touched = np.concatenate([text.touched for text in texts])
    areas = [roc_auc(text.suspicion, text.touched) for text in both]
    kinds: dict[str, list[float]] = {}
    for text, area in zip(both, areas, strict=True):
        kinds.setdefault(text.kind, []).append(area)
    return {
        "auc": roc_auc(suspicion, touched),
        "average_precision": average_precision(suspicion, touched),
        "share": float(touched.mean()),
        "by_text": interval(areas, seed=seed).as_dict(),
        "kinds": {kind: interval(found, seed=seed).as_dict() for kind, found in sorted(kinds.items())},
    }


def roc_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """How likely a true one scores higher than a false one, in [0, 1]; ties half (Mann and Whitney 1947).

    Raises ValueError unless there are both.
    """
    labels = np.asarray(labels, dtype=bool)
    num_true = int(labels.sum())
    num_false = len(labels) - num_true
    if not num_true or not num_false:
        raise ValueError("an area needs true and false ones")
    _, number, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2.0)[number]  # the mean rank of equal scores, from 1
    return float((rank[labels].sum() - num_true * (num_true + 1) / 2.0) / (num_true * num_false))


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Sum over thresholds of precision x gain in recall, from the highest score down; equal scores share a threshold.

    Raises ValueError when there is no true one.
    """
    labels = np.asarray(labels, dtype=bool)
    if not labels.any():
        raise ValueError("average precision needs a true one")
    _, number = np.unique(-np.asarray(scores, dtype=np.float64), return_inverse=True)
    found = np.cumsum(np.bincount(number, weights=labels))
    seen = np.cumsum(np.bincount(number))
    gained = np.diff(found, prepend=0.0) / labels.sum()
    return float((gained * found / seen).sum())
