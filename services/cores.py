"""How many cores a process may use: threads beyond them wait for each other and make everything slower."""

from __future__ import annotations

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> float:
    """This process's affinity, or less where its container has a quota."""
    cores = float(len(os.sched_getaffinity(0)))
    try:
        quota = _QUOTA.read_text(encoding="utf-8").split()
    except OSError:  # not Linux's second generation of control groups
        return cores
    if len(quota) == 2 and quota[0].isdigit():
        cores = min(cores, int(quota[0]) / int(quota[1]))
    return cores


def whole_cores() -> int:
    """Those that a number of threads can be shared out by: at least one."""
    return max(1, int(usable_cores()))
