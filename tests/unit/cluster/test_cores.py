"""Threads are shared out of the cores that a process may use, not of those that the machine has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services import cores
from services.cluster.placement import share_of_cores


def test_affinity_counts() -> None:
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{one}}}); from services.cores import whole_cores; print(whole_cores())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout == "1\n"


@pytest.mark.parametrize(
    "quota, usable, whole",
    [("150000 100000\n", 1.5, 1), ("50000 100000\n", 0.5, 1), ("300000 100000\n", 3.0, 3), ("max 100000\n", 8.0, 8)],
)
def test_a_containers_quota_counts(
    quota: str, usable: float, whole: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "cpu.max")
    assert cores.usable_cores() == 8.0  # no such file
    (tmp_path / "cpu.max").write_text(quota)
    assert (cores.usable_cores(), cores.whole_cores()) == (usable, whole)
    assert share_of_cores(3) == max(1, whole // 3)
    assert share_of_cores(3, asked=5) == 5
