"""Whole weights are exchanged, there and back; some that do not load leave an engine that answers nobody, and says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.support import ROOT

pytestmark = pytest.mark.integration


def test_weights_are_exchanged_and_some_that_do_not_load_leave_a_dead_engine(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.integration.serving_engine_worker", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert (seen["before"][0], seen["exchanged"][0]) == ("old", "new")
    assert seen["exchanged"][1] != seen["before"][1]
    assert seen["back"] == seen["before"]
    assert seen["told"].startswith("the weights of lacking could not be loaded: ")
    assert "lacks 1 of" in seen["told"]
    assert (seen["dead_before"], seen["dead"]) == (False, True)
