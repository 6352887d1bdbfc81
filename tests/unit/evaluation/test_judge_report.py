"""A judge's accuracy and its bias for a place, by hand."""

from __future__ import annotations

import math

import pytest

from rlft_core.evaluation.judges import judge_report
from rlft_core.judging.protocol import TIE, Verdict


def test_a_report_by_hand() -> None:
    right = Verdict((0.6, 0.2), (0.7, 0.1))
    biased = Verdict((0.9, 0.1), (0.2, 0.8))  # whatever stands first; a more by a little
    wrong = Verdict((0.1, 0.3), (0.2, 0.2))
    found = judge_report([right, biased, wrong, TIE])
    assert found["accuracy"]["mean"] == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert found["strict"]["mean"] == pytest.approx((1 + 0.5 + 0.5 + 0.5) / 4)
    assert found["agreement"] == pytest.approx(1 / 3)
    firsts = [(0.6 / 0.8 + 0.1 / 0.8) / 2, (0.9 + 0.8) / 2, (0.1 / 0.4 + 0.5) / 2]
    assert found["first"] == pytest.approx(sum(firsts) / 3)
    assert found["said"] == pytest.approx((0.8 + 0.8 + 1.0 + 1.0 + 0.4 + 0.4) / 6)
    assert 0 < found["entropy"] < math.log(2)


def test_pairs_of_one_task_are_drawn_together() -> None:
    right, wrong = Verdict((0.9, 0.1), (0.9, 0.1)), Verdict((0.1, 0.9), (0.1, 0.9))
    verdicts = [right] * 4 + [wrong] * 4
    alone = judge_report(verdicts)["accuracy"]
    together = judge_report(verdicts, tasks=["one"] * 4 + ["other"] * 4)["accuracy"]
    assert alone["mean"] == together["mean"] == 0.5
    assert (together["low"], together["high"]) == (0.0, 1.0)  # both tasks may be the same one
    assert 0.0 < alone["low"] < alone["high"] < 1.0


def test_a_judge_that_is_sure_has_no_entropy_and_one_that_is_not_has_all() -> None:
    assert judge_report([Verdict((1.0, 0.0), (1.0, 0.0))])["entropy"] == 0.0
    assert judge_report([Verdict((0.2, 0.2), (0.3, 0.3))])["entropy"] == pytest.approx(math.log(2))
    assert judge_report([TIE])["first"] == 0.5
    with pytest.raises(ValueError, match="at least one"):
        judge_report([])
