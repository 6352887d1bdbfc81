"""Areas against counting pairs by hand, and what is reported of marked texts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlft_core.evaluation.localisation import MarkedText, average_precision, localisation_report, roc_auc

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=2, max_size=20)


@given(PAIRS)
def test_the_area_is_the_share_of_pairs_in_the_right_order(pairs: list[tuple[int, bool]]) -> None:
    scores, labels = (np.array(side) for side in zip(*pairs, strict=True))
    true, false = scores[labels], scores[~labels]
    if not len(true) or not len(false):
        with pytest.raises(ValueError, match="true and false"):
            roc_auc(scores, labels)
        return
    won = [1.0 if a > b else 0.5 if a == b else 0.0 for a in true for b in false]
    assert roc_auc(scores, labels) == pytest.approx(float(np.mean(won)), abs=1e-12)


@given(PAIRS)
def test_average_precision_is_that_of_every_threshold(pairs: list[tuple[int, bool]]) -> None:
    scores, labels = (np.array(side) for side in zip(*pairs, strict=True))
    if not labels.any():
        with pytest.raises(ValueError, match="a true one"):
            average_precision(scores, labels)
        return
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        chosen = labels[scores >= threshold]
        total += chosen.mean() * (chosen.sum() / labels.sum() - recall)
        recall = chosen.sum() / labels.sum()
    assert average_precision(scores, labels) == pytest.approx(total, abs=1e-12)


def test_areas_by_hand() -> None:
    scores, labels = np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])
    assert roc_auc(scores, labels) == 0.75
    assert average_precision(scores, labels) == pytest.approx(5 / 6)


def marked(kind: str, suspicion: list[float], touched: list[int]) -> MarkedText:
    return MarkedText(kind, np.array(suspicion), np.isin(np.arange(len(suspicion)), touched))


def test_a_report_counts_texts_that_have_tokens_of_both_sorts() -> None:
    report = localisation_report(
        [
            marked("a", [3.0, 1.0, 2.0], [0]),
            marked("b", [1.0, 2.0], [0]),
            marked("a", [5.0], [0]),
            marked("a", [0.0], []),
        ]
    )
    assert report is not None
    assert report["by_text"]["n"] == 2
    assert report["by_text"]["mean"] == 0.5
    assert report["kinds"]["a"]["mean"] == 1.0
    assert report["kinds"]["b"]["mean"] == 0.0
    assert report["share"] == pytest.approx(3 / 7)
    assert report["auc"] == pytest.approx((4 + 1.5 + 4) / 12)
    assert localisation_report([marked("a", [1.0], [0])]) is None
