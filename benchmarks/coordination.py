"""Which share of a step is coordination: time in which no process of the run computes.

    idle            1 - (sampling + update + save + publish + load) / step       nobody works at all
    not computing   1 - (sampling + update) / step                               weight sync counts as overhead too

`sampling` is the length of the union of all spans in which an engine has an admitted group or a scorer scores, taken in
those processes; `update` is the learner's whole update; `publish` and `load` are the two ends of the weight sync. At
`max_lag` 0 these never overlap, so they add up. Spans end where the work ends: messages, waiting and the coordinator's
own time are what is left. Small bookings that no timer covers (the parity probe's two passes) count as idle.
"""

from __future__ import annotations

from typing import Any

from benchmarks.measured_run import Steps

WORK = {
    "sampling": "time/sampling_busy_s",
    "update": "time/learner_update_s",
    "save": "time/learner_save_s",
    "publish": "time/learner_publish_s",
    "load": "sync/seconds",
}
COMPUTE = ("sampling", "update")


def coordination(steps: Steps) -> dict[str, Any]:
    """Shares of the mean step at `max_lag` 0, and the seconds they are made of."""
    step_s = steps.mean("time/step_s")
    seconds = {name: steps.mean(metric) for name, metric in WORK.items()}
    computing = sum(seconds[name] for name in COMPUTE)
    return {
        "step_s": step_s,
        **{f"{name}_s": value for name, value in seconds.items()},
        "fetch_s": steps.mean("time/learner_fetch_s"),
        "idle_share": max(0.0, 1.0 - sum(seconds.values()) / step_s),
        "not_computing_share": max(0.0, 1.0 - computing / step_s),
    }
