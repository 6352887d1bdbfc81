"""status.json: what it says while a run works, and when nobody writes it any more."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import pytest

from rlft_core.errors import RunStopped
from services.observe.observer import Observer
from services.observe.sinks import RunInfo
from services.observe.status import SILENT_S, STATUS, Status, read_status
from services.observe.terminal import Terminal
from services.pipeline.attended import outcome


def status_of(folder: Path) -> Status:
    seconds = itertools.count()
    observer = Observer(RunInfo("a-run", folder), terminal=Terminal(io.StringIO()), now=lambda: float(next(seconds)))
    return Status(observer, [("sft", "sft"), ("tune", "ppo")])


def test_it_says_where_the_stage_stands(tmp_path: Path) -> None:
    status = status_of(tmp_path)
    status.stage, status.state = "tune", "running"
    with status.observer.started(), status.observer.stage("tune", num_steps=10) as observe:
        for step in range(2):
            with observe.step(step) as clock:
                clock.record({"reward/mean": 0.5 + step, "bad": float("nan")})
        status.observer.notice("engine engine-0 died")
        status.write(
            [{"name": "engine-0", "kind": "engine", "state": "healthy", "node": "ab", "pid": 7}], scalable=True
        )
    found = read_status(tmp_path)
    assert found is not None
    assert (found["run"], found["state"], found["stage"], found["stage_type"]) == ("a-run", "running", "tune", "ppo")
    assert (found["step"], found["num_steps"], found["stages"]) == (2, 10, ["sft", "tune"])
    assert found["metrics"]["reward/mean"] == 1.5
    assert "bad" not in found["metrics"]
    assert found["eta_s"] == 8 * found["metrics"]["time/step_s"] > 0
    assert found["actors"][0]["pid"] == 7
    assert found["scalable"] is True
    assert found["notices"] == ["engine engine-0 died"]
    assert found["error"] is None


def test_a_run_that_fell_silent_is_lost(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    status = status_of(tmp_path)
    status.state = "running"
    status.write()
    heard = json.loads((tmp_path / STATUS).read_text())["time"]
    for later, state in ((SILENT_S - 1, "running"), (SILENT_S + 1, "lost")):
        found = read_status(tmp_path, now=lambda later=later: heard + later)  # type: ignore[misc]
        assert found is not None
        assert found["state"] == state
        assert found["silent_s"] == pytest.approx(later, abs=1e-3)


@pytest.mark.parametrize(
    "error, state, told",
    [
        (None, "done", None),
        (RunStopped("tune stopped after step 3 of 10"), "stopped", "tune stopped after step 3 of 10"),
        (KeyboardInterrupt(), "stopped", "interrupted"),
        (ValueError("broken"), "failed", "ValueError: broken"),
    ],
)
def test_how_a_run_ended_is_written_down(
    tmp_path: Path, error: BaseException | None, state: str, told: str | None
) -> None:
    status = status_of(tmp_path)

    def run() -> None:
        with outcome(status):
            assert json.loads((tmp_path / STATUS).read_text())["state"] == "starting"
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(type(error)):
            run()
    found = read_status(tmp_path)
    assert found is not None
    assert (found["state"], found["error"]) == (state, told)
