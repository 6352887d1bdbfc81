"""Runs in processes of their own that are watched, scaled and stopped from outside, and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.control.requests import ask
from services.observe.status import read_status
from tests.integration.support import (
    LONGEST_RUN_S,
    ROOT,
    Here,
    assert_each_once,
    finish_run,
    model_bytes,
    ppo,
    recipe_content,
    results_of,
    sample_texts,
    samples_per_row,
    sft,
    started_run,
    steps_of,
)

pytestmark = pytest.mark.integration

FOLDER = Path("runs", "run")


def rlft(base: Path, *words: str) -> str:
    """A command of rlft beside the run; what it printed."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-m", "services.cli.main", *words]
    done = subprocess.run(command, cwd=base, env=env, capture_output=True, text=True, timeout=LONGEST_RUN_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def until(moment: Callable[[], Any], process: subprocess.Popen[bytes], base: Path) -> None:
    """Wait for a moment of a run that must not end before."""
    deadline = time.monotonic() + LONGEST_RUN_S
    while not moment():
        assert process.poll() is None, (base / "log.txt").read_text()
        assert time.monotonic() < deadline, "the moment did not come"
        time.sleep(0.02)


def state(base: Path) -> dict[str, Any]:
    found = read_status(base / FOLDER)
    assert found is not None
    return found


def test_a_run_told_to_stop_saves_ends_well_and_goes_on_bit_for_bit(
    base: Path, tiny_model: Path, undisturbed_float32: Here
) -> None:
    (base / "recipe.yaml").write_text(json.dumps(recipe_content(tiny_model, ppo(checkpoint={"every": 100}))))
    with started_run(base) as process:
        until(lambda: steps_of(base / FOLDER, "ppo"), process, base)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONGEST_RUN_S) == 0
    done = len(steps_of(base / FOLDER, "ppo"))
    assert done < 5
    assert f"Stopped: stopped after step {done} of 5; its checkpoint is written" in (base / "log.txt").read_text()
    assert [f.name for f in (base / FOLDER / "stages/ppo/checkpoints").iterdir()] == [f"step-{done:06d}"]
    assert state(base)["state"] == "stopped"
    assert "stopped after step" in rlft(base, "status", "run")
    finish_run(base)
    assert state(base)["state"] == "done"
    assert_each_once(base / FOLDER, 5)
    assert sample_texts(base / FOLDER) == sample_texts(undisturbed_float32.folder)
    assert results_of(base / FOLDER, "ppo") == results_of(undisturbed_float32.folder, "ppo")
    assert model_bytes(base / FOLDER) == undisturbed_float32.model()


def test_actors_join_and_leave_a_run_that_works_and_a_supervised_stage_stops_when_asked(
    base: Path, tiny_model: Path
) -> None:
    steps = 300
    stages = (ppo(engine="fake", num_steps=steps, optimizer={"lr": 1e-4}), sft(num_steps=1000, start_from="ppo"))
    (base / "recipe.yaml").write_text(json.dumps(recipe_content(tiny_model, *stages)))
    with started_run(base) as process:
        until(lambda: steps_of(base / FOLDER, "ppo"), process, base)
        told = rlft(base, "scale", "run", "--rollouts", "3", "--scorers", "2")
        assert "run: rollouts 1 → 3" in told
        assert "rollouts: healthy, healthy, healthy; scorers: healthy, healthy" in told
        engines = [actor["name"] for actor in state(base)["actors"] if actor["kind"] == "engine"]
        assert engines == ["engine-0", "engine-1", "engine-2"]
        before = len(steps_of(base / FOLDER, "ppo"))
        rlft(base, "scale", "run", "--rollouts", "1", "--scorers", "1")
        assert len(steps_of(base / FOLDER, "ppo")) < steps, "the run was over before its engines left"
        assert before > 1
        shown = rlft(base, "status", "run")
        assert "rank-0" in shown
        assert "engine engine-2 left" in shown
        until(lambda: len(steps_of(base / FOLDER, "sft")) > 2, process, base)
        said = ask(base / FOLDER, "stop", {}, deadline_s=60.0)  # a command would take longer than a step of this model
        assert said["told"] == "sft ends after its step, with a checkpoint; asked again, it ends at once"
        assert process.wait(LONGEST_RUN_S) == 0
    assert steps_of(base / FOLDER, "ppo") == list(range(steps))
    assert all(set(counts.values()) == {4} for counts in samples_per_row(base / FOLDER).values())
    done = len(steps_of(base / FOLDER, "sft"))
    assert 2 < done < 1000
    assert not (base / FOLDER / "stages/sft/model").exists()
    assert (base / FOLDER / f"stages/sft/checkpoints/step-{done:06d}").is_dir()
    told = (base / "log.txt").read_text()
    assert f"Stopped: sft stopped after step {done} of 1000; its checkpoint is written" in told
    finish_run(base)
    assert steps_of(base / FOLDER, "sft") == list(range(1000))
