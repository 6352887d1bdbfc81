"""What is said of a reward model, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlft_core.evaluation.pairs import calibration, pairs_report


def test_accuracy_by_kind_and_over_rows() -> None:
    scores = [[1.0, 0.0, 2.0], [0.0, -1.0], [3.0, 3.0, 1.0]]
    kinds = [["a", "b"], ["a"], ["a", "b"]]
    report = pairs_report(scores, kinds)
    assert report["kinds"]["a"]["accuracy"]["mean"] == pytest.approx((1 + 1 + 0.5) / 3, abs=1e-12)
    assert report["kinds"]["a"]["accuracy"]["n"] == 3
    assert report["kinds"]["b"]["accuracy"]["mean"] == pytest.approx(0.5, abs=1e-12)
    assert report["kinds"]["a"]["gap"] == pytest.approx((1 + 1 + 0) / 3, abs=1e-12)
    assert report["overall"]["mean"] == pytest.approx((0.5 + 1.0 + 0.75) / 3, abs=1e-12)
    assert report["positives"]["mean"] == pytest.approx(4 / 3, abs=1e-12)
    assert report["positives"]["std"] == pytest.approx(math.sqrt(((1 - 4 / 3) ** 2 + (4 / 3) ** 2 + (5 / 3) ** 2) / 3))


def test_no_pairs_is_an_error() -> None:
    with pytest.raises(ValueError, match="no pair"):
        pairs_report([[1.0]], [[]])


def test_calibration_by_hand() -> None:
    """Two pairs at confidence sigma(1) = .731, one right and one wrong, and one at sigma(4) = .982, right."""
    found = calibration(np.array([1.0, -1.0, 4.0]))
    low, high = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-4))
    assert [(b["n"], b["accuracy"]) for b in found["bins"]] == [(2, 0.5), (1, 1.0)]
    assert found["bins"][0]["confidence"] == pytest.approx(low, abs=1e-12)
    assert found["ece"] == pytest.approx((2 * (low - 0.5) + (1 - high)) / 3, abs=1e-12)
    assert found["brier"] == pytest.approx(((low - 1) ** 2 + low**2 + (high - 1) ** 2) / 3, abs=1e-12)


def test_a_perfectly_calibrated_scorer_has_a_small_error() -> None:
    rng = np.random.default_rng(0)
    gaps = rng.normal(0, 2, size=20_000)
    right = rng.random(20_000) < 1 / (1 + np.exp(-np.abs(gaps)))
    assert calibration(np.where(right, np.abs(gaps), -np.abs(gaps)))["ece"] < 0.02


def test_huge_gaps_do_not_overflow() -> None:
    assert calibration(np.array([1e6, -1e6]))["ece"] == pytest.approx(0.5, abs=1e-9)
