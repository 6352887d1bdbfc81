"""How well a reward model tells good from bad: accuracy by kind of negative, gaps, and calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlft_core.evaluation.bootstrap import interval

_NUM_BINS = 5


def pairs_report(scores: Sequence[Sequence[float]], kinds: Sequence[Sequence[str]], *, seed: int = 0) -> dict[str, Any]:
    """What held-out contrasts say.

    Args:
        scores: of each row, the reference's score and then those of its negatives.
        kinds: of each row, the kinds of its negatives.

    Returns:
        `kinds[kind]` = {accuracy: interval, gap: mean of good - bad}; `overall`, the interval of the accuracy over rows;
        `calibration`, of the probability sigma(good - bad) that Bradley-Terry gives to the better text; `positives`,
        mean and standard deviation of the references' scores. A tie counts half.

    Raises:
        ValueError: no pairs.
    """
    gaps: dict[str, list[float]] = {}
    by_row: list[float] = []
    for row, names in zip(scores, kinds, strict=True):
        found = [row[0] - bad for bad in row[1:]]
        for name, gap in zip(names, found, strict=True):
            gaps.setdefault(name, []).append(gap)
        if found:
            by_row.append(float(np.mean([_right(gap) for gap in found])))
    if not by_row:
        raise ValueError("there is no pair to measure on")
    every = np.concatenate([np.asarray(values) for values in gaps.values()])
    positives = np.asarray([row[0] for row in scores])
    return {
        "kinds": {
            name: {
                "accuracy": interval([_right(gap) for gap in values], seed=seed).as_dict(),
                "gap": float(np.mean(values)),
            }
            for name, values in sorted(gaps.items())
        },
        "overall": interval(by_row, seed=seed).as_dict(),
        "calibration": calibration(every),
        "positives": {"mean": float(positives.mean()), "std": float(positives.std())},
    }


def calibration(gaps: np.ndarray) -> dict[str, Any]:
    """Expected calibration error (Guo et al. 2017) and Brier score of "the higher score is the better text".

    The confidence of a pair is sigma(|good - bad|), from .5 to 1; it is right when good > bad.
    """
    confidence = 1.0 / (1.0 + np.exp(-np.minimum(np.abs(gaps), 700.0)))
    right = np.asarray([_right(gap) for gap in gaps])
    edges = np.linspace(0.5, 1.0, _NUM_BINS + 1)
    index = np.minimum(np.searchsorted(edges, confidence, side="right") - 1, _NUM_BINS - 1)
    bins: list[Mapping[str, float]] = []
    for number in range(_NUM_BINS):
        inside = index == number
        if inside.any():
            bins.append(
                {
                    "low": float(edges[number]),
                    "high": float(edges[number + 1]),
                    "confidence": float(confidence[inside].mean()),
                    "accuracy": float(right[inside].mean()),
                    "n": int(inside.sum()),
                }
            )
    ece = math.fsum(b["n"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / len(gaps)
    return {"ece": ece, "brier": float(np.mean((confidence - right) ** 2)), "bins": bins}


def _right(gap: float) -> float:
    return 1.0 if gap > 0 else 0.5 if gap == 0 else 0.0
