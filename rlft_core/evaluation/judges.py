"""How good a judge is where it is known which text is the better one: accuracy, and how much it looks at the place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlft_core.evaluation.bootstrap import interval
from rlft_core.judging.protocol import TIE, Verdict


def judge_report(verdicts: Sequence[Verdict], *, tasks: Sequence[str] | None = None, seed: int = 0) -> dict[str, Any]:
    """What a judge said of pairs whose first answer `a` is known to be the better one.

    `tasks` names what each pair is about: pairs of one task are not independent, and intervals resample whole tasks.

    Returns:
        `accuracy`, interval of the share of pairs in which `a` has the higher mean score over both orders (a tie counts half);
        `strict`, the same where both orders must say so (a contradiction counts half); `agreement`, share of pairs in which
        the orders agree; `first`, mean share of probability given to whatever stood first, .5 without a position bias;
        `said`, mean probability given to either label at all; `entropy` of the decision between them, in nats, at most ln 2.

    Raises ValueError without a verdict.
    """
    judged = [verdict for verdict in verdicts if verdict != TIE]
    orders = [pair for verdict in judged for pair in (verdict.a_first, verdict.b_first)]
    return {
        "accuracy": interval([verdict.preferred for verdict in verdicts], clusters=tasks, seed=seed).as_dict(),
        "strict": interval([verdict.outcome for verdict in verdicts], clusters=tasks, seed=seed).as_dict(),
        "agreement": float(np.mean([verdict.agrees for verdict in judged])) if judged else 1.0,
        "first": float(np.mean([verdict.first for verdict in judged])) if judged else 0.5,
        "said": float(np.mean([of_a + of_b for of_a, of_b in orders])) if orders else 1.0,
        "entropy": float(np.mean([_entropy(*pair) for pair in orders])) if orders else math.log(2.0),
    }


def _entropy(of_a: float, of_b: float) -> float:
    total = of_a + of_b
    shares = (of_a / total, of_b / total) if total > 0 else (0.5, 0.5)
    return -sum(share * math.log(share) for share in shares if share > 0)
