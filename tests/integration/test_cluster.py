"""Jobs on a real cluster of three nodes: submitted from another folder, scaled, a node lost, two that must take turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.observe.status import read_status
from tests.integration.support import (
    LONGEST_RUN_S,
    ROOT,
    assert_each_once,
    descendants,
    ppo,
    recipe_content,
    sft,
    steps_of,
    write_rows,
)

pytestmark = pytest.mark.integration

_ENV = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    "RAY_AUTH_MODE": "disabled",
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "160",
}


@dataclass(frozen=True)
class Nodes:
    """The cluster: its address, its nodes' ids (the head's first), and the process that may lose one."""

    address: str
    ids: list[str]
    process: subprocess.Popen[str]

    def lose(self, node: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(node + "\n")
        self.process.stdin.flush()
        assert json.loads(self.process.stdout.readline()) == {"lost": node}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head that takes no actors that need a CPU, as on Kubernetes, and two workers with four CPUs each."""
    command = [sys.executable, "-m", "tests.integration.cluster_nodes", "0", "4", "4"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=_ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        told = json.loads(process.stdout.readline())
        yield Nodes(told["address"], told["nodes"], process)
    finally:
        left = descendants(process.pid)
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        for one in left:
            if one.is_running():
                one.kill()


def rlft(cwd: Path, *words: str, code: int = 0) -> str:
    """A command of rlft; what it printed."""
    command = [sys.executable, "-m", "services.cli.main", *words]
    done = subprocess.run(command, cwd=cwd, env=_ENV, capture_output=True, text=True, timeout=LONGEST_RUN_S)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def submitted(base: Path, name: str, nodes: Nodes, *stages: dict[str, Any], model: Path) -> Path:
    """Hand in a run from a folder of its own; the folder that its files go to."""
    home = base / f"home-of-{name}"
    home.mkdir()
    write_rows(home)
    content = {**recipe_content(model, *stages), "name": name}
    del content["cluster"]
    (home / "my.yaml").write_text(json.dumps(content))
    told = rlft(home, "submit", "my.yaml", "--address", nodes.address, "--runs-dir", str(base / "runs"))
    assert f"{name}: handed in as rlft-{name}-1" in told
    return base / "runs" / name


def until(moment: Callable[[], Any], run: Path, nodes: Nodes, at_most_s: float = 300.0) -> None:
    """Wait for a moment of a job's run."""
    end = time.monotonic() + at_most_s
    while not moment():
        assert time.monotonic() < end, rlft(run.parent, "logs", run.name, "--address", nodes.address)
        time.sleep(0.2)


def state(run: Path) -> str:
    found = read_status(run)
    return str(found["state"]) if found else "unknown"


def test_two_jobs_on_a_cluster_that_fits_one_take_turns_and_the_second_says_why_it_waits(
    tmp_path: Path, tiny_model: Path, nodes: Nodes
) -> None:
    at = ("--address", nodes.address)
    large = {"num_ranks": 2, "threads_per_rank": 1, "cpus_per_rank": 4, "step_deadline_s": 120}
    first = submitted(tmp_path, "first", nodes, sft(num_steps=100_000, learner=large), model=tiny_model)
    until(lambda: len(steps_of(first, "sft")) > 1, first, nodes)
    second = submitted(tmp_path, "second", nodes, sft(learner=large), model=tiny_model)
    until(lambda: state(second) == "waiting", second, nodes)
    until(lambda: "at work: first" in rlft(tmp_path, "logs", "second", *at), second, nodes)
    assert "waiting: it needs 8 CPUs and 0 GPUs at once" in rlft(tmp_path, "logs", "second", *at)
    assert state(first) == "running"
    assert "sft ends after its step" in rlft(tmp_path, "stop", "first", *at)
    until(lambda: state(second) == "done", second, nodes)
    assert state(first) == "stopped"
    assert "handed in again as rlft-first-2" in rlft(tmp_path, "resume", "first", *at)
    assert "is at work" in rlft(tmp_path, "resume", "first", *at, code=2)
    until(lambda: state(first) == "running", first, nodes)
    assert "it ends at once" in rlft(tmp_path, "stop", "first", "--now", *at)


def test_a_job_that_asks_for_more_than_there_is_says_so_in_time(tmp_path: Path, tiny_model: Path, nodes: Nodes) -> None:
    home = tmp_path / "home"
    home.mkdir()
    write_rows(home)
    content = recipe_content(tiny_model, sft(learner={"cpus_per_rank": 64})) | {"name": "greedy"}
    content["cluster"] = {"wait_s": 3}
    (home / "my.yaml").write_text(json.dumps(content))
    told = rlft(
        home,
        *("submit", "my.yaml", "--follow", "--address", nodes.address, "--runs-dir", str(tmp_path / "runs")),
        code=1,
    )
    assert "asks for 64 CPUs and 0 GPUs at once, but the cluster has" in told
    assert "had not more after 3 s (cluster.wait_s)" in told


def test_a_job_from_another_folder_is_scaled_loses_a_node_and_ends_well(
    tmp_path: Path, tiny_model: Path, nodes: Nodes
) -> None:
    steps, at = 200, ("--address", nodes.address)
    run = submitted(tmp_path, "scaled", nodes, ppo(num_steps=steps, optimizer={"lr": 1e-4}), model=tiny_model)
    assert "the cluster has a run 'scaled' already" in rlft(
        tmp_path / "home-of-scaled", "submit", "my.yaml", *at, "--runs-dir", str(tmp_path / "runs"), code=2
    )
    until(lambda: len(steps_of(run, "ppo")) > 1, run, nodes)
    told = rlft(tmp_path, "scale", "scaled", "--rollouts", "3", *at)
    assert "scaled: rollouts 1 → 3" in told
    assert "rollouts: healthy, healthy, healthy" in told
    assert "rollouts: healthy\n" in rlft(tmp_path, "scale", "scaled", "--rollouts", "1", *at)
    found = json.loads(rlft(tmp_path, "status", "scaled", "--json", *at))
    (engine,) = (actor for actor in found["actors"] if actor["kind"] == "engine")
    lost = next(node for node in nodes.ids if node.startswith(engine["node"]))
    assert len(steps_of(run, "ppo")) < steps, "the job was over before a node was lost"
    nodes.lose(lost)
    until(lambda: state(run) not in ("running", "waiting", "starting"), run, nodes)
    assert state(run) == "done", rlft(tmp_path, "logs", "scaled", *at)
    assert_each_once(run, steps)
    told = rlft(tmp_path, "logs", "scaled", "-f", *at)
    assert "joined after" in told
    assert "engine engine-0 died" in told
    assert "SUCCEEDED" in rlft(tmp_path, "jobs", *at)


def test_nobody_there_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    told = rlft(tmp_path, "jobs", "--address", "http://127.0.0.1:9", code=2)
    assert "no Ray cluster answers at http://127.0.0.1:9" in told
