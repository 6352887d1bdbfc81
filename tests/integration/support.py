"""What the integration tests share: a small recipe, runs in this process or in their own, and what they leave."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from rlft_core.config import Recipe
from rlft_core.config.load import parse_recipe
from rlft_core.config.online import OnlineStage
from rlft_core.config.stages import SftStage
from rlft_core.data.prepare import rows_of
from services.control.desk import Desk
from services.observe.observer import Observer
from services.observe.sinks import RunInfo
from services.observe.terminal import Terminal
from services.pipeline.context import RunContext
from services.pipeline.record import fingerprints
from services.pipeline.stage_online import create_services
from services.pipeline.stage_sft import run_sft
from services.training.loop import run_loop
from services.training.services import LoopServices

ROOT = Path(__file__).resolve().parents[2]
SAMPLES_PER_STEP = 16  # 4 prompts x 4 samples
LONGEST_RUN_S = 900.0
_HELPERS_OF_RAY = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")

#: Metrics that say how long something took or where it ran, not what came out.
_NOT_RESULTS = ("time", "sync/", "engines/", "tokens/per_second")


def write_rows(base: Path, count: int = 24) -> None:
    """rows.jsonl with short inputs and outputs."""
    nouns = ("file", "game", "server", "picture", "library", "network")
    rows = [{"input": f"reads {nouns[k % 6]} {k}", "output": f"a small {nouns[k % 6]} tool"} for k in range(count)]
    (base / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe_content(model: Path, *stages: dict[str, Any], dtype: str = "float32") -> dict[str, Any]:
    """A recipe of these stages on the tiny model and the rows of `write_rows`."""
    return {
        "name": "run",
        "seed": 3,
        "model": {"name": str(model), "dtype": dtype, "max_length": 160},
        "data": {"train": "rows.jsonl", "validation": 4, "test": 4, "max_prompt_tokens": 60},
        "cluster": {"object_store_mb": 128},
        "stages": list(stages),
    }


def sft(**changes: Any) -> dict[str, Any]:
    """A supervised stage of three steps."""
    return {
        "type": "sft",
        "num_steps": 3,
        "batch_rows": 4,
        "optimizer": {"lr": 1e-3, "warmup_steps": 0},
        "learner": {"threads_per_rank": 1, "step_deadline_s": 120},
        "checkpoint": {"every": 2},
    } | changes


def ppo(*, engine: str = "vllm", **changes: Any) -> dict[str, Any]:
    """A PPO stage of five steps, saved after the second and fourth; the learning rate moves the weights at each."""
    return {
        "type": "ppo",
        "num_steps": 5,
        "prompts_per_step": 4,
        "samples_per_prompt": 4,
        "sampling": {"max_tokens": 24},
        "advantage": {"type": "gae"},
        "kl": {"coefficient": 0.05, "adaptive": {"target": 0.5, "horizon": 100}},
        "rewards": [{"type": "length", "unit": "characters", "min": 1, "max": 10, "tolerance": 60}],
        "optimizer": {"lr": 1e-3, "warmup_steps": 0},
        "learner": {"threads_per_rank": 1, "max_row_tokens": 256, "step_deadline_s": 200},
        "rollout": {
            "engine": engine,
            "threads_per_engine": 1,
            "kv_cache_mb": 32,
            "max_sequences": 32,
            "start_deadline_s": 300,
            "request_deadline_s": 120,
        },
        "checkpoint": {"every": 2},
        "log_samples_every": 1,
    } | changes


def evaluate(**changes: Any) -> dict[str, Any]:
    """An evaluation of base and tuned model on four rows."""
    systems = {"base": "base", "rl": "ppo"}
    rollout = {"threads_per_engine": 1, "kv_cache_mb": 32, "max_sequences": 32}
    return {"type": "evaluate", "systems": systems, "max_tokens": 16, "rollout": rollout} | changes


def recipe_of(content: dict[str, Any], *overrides: str) -> Recipe:
    """The checked recipe with `a.b=c` overrides."""
    return parse_recipe(content, overrides, source="test recipe")


# ---------------------------------------------------------------- in this process, on the session's cluster


@dataclass(frozen=True)
class Here:
    """A run in this process: its context, and what a person would have read."""

    context: RunContext
    told: io.StringIO

    @property
    def folder(self) -> Path:
        return self.context.folder

    def model(self, stage: str = "ppo") -> bytes:
        """The bytes of the tuned weights."""
        return model_bytes(self.folder, stage)


def here(base: Path, recipe: Recipe) -> Here:
    """A run folder below `base`, as `run_recipe` prepares it."""
    folder = base / "runs" / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    told = io.StringIO()
    model = recipe.model.name
    observer = Observer(RunInfo(recipe.name, folder), terminal=Terminal(told))
    splits = rows_of(recipe.data, base, recipe.seed)
    prints = fingerprints(recipe, model, base)
    return Here(RunContext(recipe, folder, base, model, splits, prints, observer, Desk(folder, observer.notice)), told)


Disturbance = Callable[[LoopServices], Awaitable[None]]


def run_ppo_here(run: Here, disturb: Disturbance | None = None, *, stage: str = "ppo") -> None:
    """Run a stage of the loop on the session's cluster; `disturb` runs beside it, and its failure is the test's."""
    asyncio.run(_run_ppo(run.context, stage, disturb))


def run_sft_here(run: Here, *, stage: str = "sft") -> None:
    """Run a supervised stage on the session's cluster."""
    config = run.context.recipe.stage(stage)
    assert isinstance(config, SftStage)
    with run.context.observer.started():
        asyncio.run(run_sft(run.context, config))


async def _run_ppo(context: RunContext, name: str, disturb: Disturbance | None) -> None:
    stage = context.recipe.stage(name)
    assert isinstance(stage, OnlineStage)
    with (
        context.observer.started(),
        context.observer.stage(name, num_steps=stage.num_steps, sample_every=stage.log_samples_every) as observe,
    ):
        services = create_services(context, stage, observe)
        other = asyncio.ensure_future(disturb(services)) if disturb else None
        try:
            await asyncio.wait_for(run_loop(stage, services), LONGEST_RUN_S)
            if other is not None:
                await asyncio.wait_for(other, 1.0)
        finally:
            if other is not None:
                other.cancel()
            await services.stop()


async def recorded(folder: Path, count: int, *, stage: str = "ppo") -> None:
    """Wait until a stage has written `count` rows of metrics."""
    deadline = time.monotonic() + LONGEST_RUN_S
    while len(steps_of(folder, stage)) < count:
        assert time.monotonic() < deadline, f"{stage} wrote no {count} rows"
        await asyncio.sleep(0.01)


def kill(pid: int) -> None:
    """End a process of this test at once, as the kernel or a power cut would."""
    os.kill(pid, signal.SIGKILL)


# ---------------------------------------------------------------- in a process of its own, as a person runs it


@contextmanager
def started_run(base: Path, *overrides: str) -> Iterator[subprocess.Popen[bytes]]:
    """`rlft run recipe.yaml` in `base`. Whatever it started is ended with the block, by process id."""
    command = [sys.executable, "-m", "services.cli.main", "run", "recipe.yaml"]
    command += [part for override in overrides for part in ("--set", override)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (base / "log.txt").open("ab") as log:
        process = subprocess.Popen(command, cwd=base, env=env, stdout=log, stderr=log)
    try:
        yield process
    finally:
        for one in descendants(process.pid):
            one.kill()
        process.kill()
        process.wait(30)


def finish_run(base: Path, *overrides: str) -> str:
    """Run to the end; returns what it printed. Fails with that when it failed."""
    log = base / "log.txt"
    before = log.stat().st_size if log.exists() else 0
    with started_run(base, *overrides) as process:
        code = process.wait(LONGEST_RUN_S)
    told = log.read_bytes()[before:].decode()
    assert code == 0, told
    return told


def killed_run(base: Path, moment: Callable[[], bool], *, after_s: float = 0.0) -> None:
    """Run, and `kill -9` it when `moment` has come. Nothing of ours that it started may outlive it for long.

    Two idle helpers of Ray's notice only after a minute that they are alone; the test does not wait for them.
    """
    with started_run(base) as process:
        deadline = time.monotonic() + LONGEST_RUN_S
        while not moment():
            assert process.poll() is None, (base / "log.txt").read_text()
            assert time.monotonic() < deadline, "the moment did not come"
            time.sleep(0.005)
        time.sleep(after_s)
        started = descendants(process.pid)
        assert started
        helpers = [one for one in started if _is_helper(one)]
        process.kill()
        process.wait(30)
        _, alive = psutil.wait_procs([one for one in started if one not in helpers], timeout=30)
        left = [" ".join(one.cmdline())[:80] for one in alive if one.is_running()]
        for one in [*alive, *helpers]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
    assert left == []


def _is_helper(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline()).strip() in _HELPERS_OF_RAY
    return False


def descendants(pid: int) -> list[psutil.Process]:
    """All processes below one."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


# ---------------------------------------------------------------- what a run leaves


def rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; a line that is still being written is left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def metrics_of(folder: Path, stage: str) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl of one stage."""
    return [row for row in rows(folder / "metrics.jsonl") if row["stage"] == stage]


def steps_of(folder: Path, stage: str) -> list[int]:
    """Steps of one stage in metrics.jsonl, in the file's order."""
    return [row["step"] for row in metrics_of(folder, stage)]


def results_of(folder: Path, stage: str) -> list[dict[str, float]]:
    """What came out at each step: metrics without times and places."""
    return [
        {k: v for k, v in row.items() if not k.startswith(_NOT_RESULTS) and k != "stage"}
        for row in metrics_of(folder, stage)
    ]


def samples_per_row(folder: Path, stage: str = "ppo") -> dict[int, dict[str, int]]:
    """By step: how many samples of each data row are in samples.jsonl."""
    found: dict[int, dict[str, int]] = {}
    for row in rows(folder / "samples.jsonl"):
        if row["stage"] == stage:
            counts = found.setdefault(row["step"], {})
            counts[row["id"]] = counts.get(row["id"], 0) + 1
    return found


def sample_texts(folder: Path) -> list[tuple[int, str, str]]:
    """(step, row, text) of every sample in samples.jsonl."""
    return [(row["step"], row["id"], row["output"]) for row in rows(folder / "samples.jsonl")]


def model_bytes(folder: Path, stage: str = "ppo") -> bytes:
    """The bytes of a stage's tuned weights."""
    return (folder / "stages" / stage / "model" / "model.safetensors").read_bytes()


def assert_each_once(folder: Path, num_steps: int, *, stage: str = "ppo") -> None:
    """Every step once in metrics.jsonl, and every prompt of every step answered once: 4 rows x 4 samples."""
    assert steps_of(folder, stage) == list(range(num_steps))
    counts = samples_per_row(folder, stage)
    assert sorted(counts) == list(range(num_steps))
    assert all(sum(of_step.values()) == SAMPLES_PER_STEP for of_step in counts.values())
    assert all(set(of_step.values()) == {4} for of_step in counts.values())


def largest_difference(one: Sequence[dict[str, float]], other: Sequence[dict[str, float]]) -> float:
    """Over all steps and metrics, |a - b| / max(1, |b|); the names must be the same."""
    assert [sorted(a) for a in one] == [sorted(b) for b in other]
    return max(abs(a[name] - b[name]) / max(1.0, abs(b[name])) for a, b in zip(one, other, strict=True) for name in b)
