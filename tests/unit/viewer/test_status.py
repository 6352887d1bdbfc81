"""What a run is doing, with a heartbeat and without one."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from rlft_core.errors import UserError
from services.viewer.folders import run_folder, run_folders
from services.viewer.metrics import MetricsStore
from services.viewer.status import RunState, ago, facts_of, state_of
from tests.unit.viewer.made import policy_run, record, working_run, write


def state(folder: Path) -> RunState:
    return state_of(folder, MetricsStore())


def test_a_heartbeat_says_everything(tmp_path: Path) -> None:
    found = state(working_run(tmp_path))
    assert (found.state, found.stage, found.step, found.num_steps, found.eta_s) == ("running", "ppo", 12, 40, 125.0)
    assert found.works
    assert found.share == 0.3
    assert found.actors[0].state == "HEALTHY"
    assert found.where == "host node-a pid 4242"
    assert [(stage.name, stage.state) for stage in found.stages] == [("sft", "done"), ("ppo", "now")]


def test_the_newest_step_in_numbers(tmp_path: Path) -> None:
    folder = working_run(tmp_path)
    row = {
        "stage": "ppo",
        "step": 12,
        "reward/mean": -0.25,
        "tokens/per_second": 1240.4,
        "policy/lag": 1.0,
        "kl/mean": None,
    }
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    assert facts_of(state(folder)) == [("Reward", "−0.25"), ("Tokens a second", "1,240"), ("Staleness in steps", "1")]
    assert facts_of(state(policy_run(tmp_path, "alpha"))) == []


def test_a_heartbeat_that_stopped_is_a_lost_run(tmp_path: Path) -> None:
    found = state(working_run(tmp_path, heard_s=time.time() - 120))
    assert found.state == "lost"
    assert not found.works
    assert [stage.state for stage in found.stages] == ["done", "before"]


@pytest.mark.parametrize("told", ["done", "failed", "stopped"])
def test_an_ended_run_stays_as_it_ended(tmp_path: Path, told: str) -> None:
    found = state(working_run(tmp_path, state=told, heard_s=time.time() - 9999))
    assert found.state == told


def test_without_a_heartbeat_the_records_of_the_stages_count(tmp_path: Path) -> None:
    folder = policy_run(tmp_path, "alpha")
    found = state(folder)
    assert (found.state, found.stage, found.step) == ("done", "evaluate", None)
    record(folder, "evaluate", "evaluate", done=False)
    assert state(folder).state == "running"
    old = time.time() - 500
    os.utime(folder / "stages" / "evaluate" / "stage.json", (old, old))
    found = state(folder)
    assert found.state == "unfinished"
    assert [stage.state for stage in found.stages] == ["done", "done", "done", "before"]


def test_steps_are_counted_from_one_without_a_heartbeat(tmp_path: Path) -> None:
    folder = policy_run(tmp_path, "alpha")
    record(folder, "ppo", "ppo", done=False)
    found = state(folder)
    assert (found.stage, found.step, found.num_steps) == ("ppo", 20, 20)


@pytest.mark.parametrize("content", ["", '{"state": "runn', "[]", '{"state": "dancing", "step": "x", "actors": 3}'])
def test_a_torn_heartbeat_is_gone_without(tmp_path: Path, content: str) -> None:
    folder = policy_run(tmp_path, "alpha")
    (folder / "status.json").write_text(content)
    assert state(folder).state in ("done", "unfinished")


def test_an_empty_folder_with_a_recipe_is_a_run_that_starts(tmp_path: Path) -> None:
    write(tmp_path / "new" / "recipe.resolved.json", {})
    assert state(tmp_path / "new").state == "starting"


def test_only_folders_that_a_run_wrote_to_are_runs(tmp_path: Path) -> None:
    policy_run(tmp_path, "alpha")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "else").mkdir()
    assert [folder.name for folder in run_folders(tmp_path)] == ["alpha"]
    assert run_folders(tmp_path / "missing") == []


@pytest.mark.parametrize("name", ["..", ".", "a/b", "../alpha", ".hidden", "a\\b", "%2e%2e", "", "a\0b", "x" * 400])
def test_path_tricks_are_refused(tmp_path: Path, name: str) -> None:
    policy_run(tmp_path, "alpha")
    with pytest.raises(UserError, match=r"is no name of a run: a name has letters, digits, '\.', '_' and '-'"):
        run_folder(tmp_path, name)


def test_a_name_that_no_run_has_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no run 'gamma' in this runs folder"):
        run_folder(tmp_path, "gamma")


def test_ages_are_short() -> None:
    assert [ago(seconds) for seconds in (-1, 12.4, 300, 7200, 400_000)] == ["0 s", "12 s", "5 min", "2 h", "5 d"]
