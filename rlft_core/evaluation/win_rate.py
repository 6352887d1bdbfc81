"""Win rates of systems against one fixed reference on the same rows, with intervals and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlft_core.evaluation.bootstrap import interval, paired_difference, paired_p_value
from rlft_core.judging.protocol import TIE, Verdict


def win_rates(verdicts: Mapping[str, Sequence[Verdict]], *, seed: int = 0) -> dict[str, Any]:
    """What judges said of each system's answers (`a`) against the reference's (`b`), row by row.

    Returns:
        `systems[name]` = {rate: interval of the mean outcome, wins, ties, losses, agreement: share of comparisons in
        which both orders say the same, first: how likely whatever stood first was found better}. A tie counts half.
        `differences["later - earlier"]` = {mean, low, high, n, p} of the rates, paired by row, for every pair of systems.

    Raises ValueError when a system has no verdicts, or systems have different numbers of them.
    """
    outcomes = {name: np.array([v.outcome for v in found]) for name, found in verdicts.items()}
    names = list(outcomes)
    pairs = [(later, earlier) for i, earlier in enumerate(names) for later in names[i + 1 :]]
    return {
        "systems": {name: _system(verdicts[name], outcomes[name], seed) for name in names},
        "differences": {
            f"{later} - {earlier}": {
                **paired_difference(outcomes[later], outcomes[earlier], seed=seed).as_dict(),
                "p": paired_p_value(outcomes[later], outcomes[earlier], seed=seed),
            }
            for later, earlier in pairs
        },
    }


def _system(verdicts: Sequence[Verdict], outcomes: np.ndarray, seed: int) -> dict[str, Any]:
    judged = [verdict for verdict in verdicts if verdict != TIE]
    return {
        "rate": interval(outcomes, seed=seed).as_dict(),
        "wins": int((outcomes == 1.0).sum()),
        "ties": int((outcomes == 0.5).sum()),
        "losses": int((outcomes == 0.0).sum()),
        "agreement": float(np.mean([v.agrees for v in judged])) if judged else 1.0,
        "first": float(np.mean([v.first for v in judged])) if judged else 0.5,
    }
