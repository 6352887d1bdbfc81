"""Weight sync against a plain memory copy of as many bytes: publish (gather, cast, store) plus load (in the engine)."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from benchmarks.measured_run import Steps


def sync(steps: Steps, *, repeats: int) -> dict[str, Any]:
    """Medians over steps, and the copy's seconds for the same number of bytes."""
    num_bytes = int(steps.median("sync/bytes"))
    publish_s, load_s = steps.median("time/learner_publish_s"), steps.median("sync/seconds")
    copy_s = copy_seconds(num_bytes, repeats=repeats)
    return {
        "bytes": num_bytes,
        "publish_s": publish_s,
        "load_s": load_s,
        "sync_s": publish_s + load_s,
        "phase_s": steps.median("time/sync_s"),
        "copy_s": copy_s,
        "times_a_copy": (publish_s + load_s) / copy_s,
        "probe_nats": steps.median("sync/probe"),
    }


def copy_seconds(num_bytes: int, *, repeats: int) -> float:
    """Median seconds of `np.copyto` between two arrays whose pages were touched before."""
    source, target = np.ones(num_bytes, dtype=np.uint8), np.ones(num_bytes, dtype=np.uint8)
    np.copyto(target, source)
    seconds = []
    for _ in range(max(3, repeats)):
        started = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
