"""`max_lag` 1 against 0 on one recipe: how much of the possible overlap of sampling and learning is reached.

    possible saving = min(generate + score, update)         of the run without lag
    bound           = step - possible saving                sync and coordination cannot overlap
    reached         = (step without lag - step with lag) / possible saving

The bound supposes that engines and learner do not share what they compute with. On a machine where both use all cores
they do, and most of the saving cannot exist; with a GPU for each it can.
"""

from __future__ import annotations

from typing import Any

from benchmarks.measured_run import Steps


def lag(without: Steps, with_lag: Steps) -> dict[str, Any]:
    """Seconds a step of both runs (medians), the bound and the reached share of the possible saving."""
    step_s, lagged_s = without.median("time/step_s"), with_lag.median("time/step_s")
    sampling_s, update_s = without.median("time/generate_s"), without.median("time/update_s")
    possible_s = min(sampling_s, update_s)
    return {
        "lag_0_s": step_s,
        "lag_1_s": lagged_s,
        "bound_s": step_s - possible_s,
        "generate_and_score_s": sampling_s,
        "update_s": update_s,
        "speedup": step_s / lagged_s,
        "reached_share": (step_s - lagged_s) / possible_s if possible_s else 0.0,
        "steps_lag_0_s": without.values("time/step_s"),
        "steps_lag_1_s": with_lag.values("time/step_s"),
        "lag_in_versions": with_lag.mean("policy/lag"),
        "importance_raw": with_lag.mean("policy/importance_raw"),
        "importance_raw_max": max(with_lag.values("policy/importance_raw_max")),
    }
