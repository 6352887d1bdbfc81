"""Where metric rows go: metrics.jsonl always, TensorBoard, MLflow, Weights & Biases and OpenTelemetry (traces.py) when the
recipe asks for them.

A sink that cannot start stops the run before it has cost anything. A sink that fails later is only reported, once, and
the run goes on: hours of training are worth more than a curve (see observer.py). Secrets and addresses of tracking
servers come from the environment, never from the recipe.
"""

from __future__ import annotations

import importlib
import math
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from rlft_core.errors import ServiceError, UserError
from services.observe import jsonl


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a sink is told of the run: its name, its folder, the trackers' project and the resolved recipe."""

    name: str
    folder: Path
    project: str = "rlft"
    config: Mapping[str, object] = field(default_factory=dict)


class SinkError(ServiceError):
    """A sink that had started could not write a row. The run does not depend on it."""


class Sink(Protocol):
    """Takes one metric row for each step. Steps count from 0 within a stage and may go back after a crash."""

    def start(self, run: RunInfo) -> None:
        """Open the sink. Raises UserError when it cannot, with the way out."""

    def log(self, step: int, metrics: Mapping[str, float], stage: str) -> None:
        """Write one row. Raises SinkError when it could not."""

    def close(self) -> None:
        """Flush and let go. Safe to call for a sink that never started."""


class JsonlSink:
    """`metrics.jsonl`: a line {"stage", "step", "time" (s since the epoch), then the metrics} for each step."""

    def __init__(self) -> None:
        self._path: Path | None = None

    def start(self, run: RunInfo) -> None:
        self._path = run.folder / "metrics.jsonl"

    def rewind(self, stage: str, step: int) -> None:
        """Forget the rows of `stage` from `step` on: they are about to be written again."""
        if self._path is not None:
            jsonl.rewind(self._path, stage=stage, step=step)

    def log(self, step: int, metrics: Mapping[str, float], stage: str) -> None:
        if self._path is None:
            raise RuntimeError("JsonlSink.log was called before start")
        row = {"stage": stage, "step": step, "time": round(time.time(), 3)}
        try:
            jsonl.append_rows(self._path, [row | dict(sorted(metrics.items()))])
        except OSError as error:
            raise SinkError(f"{self._path}: {error}") from error

    def close(self) -> None:
        self._path = None


class TensorBoardSink:
    """Event files under `tensorboard/`, one folder for each stage, so that stages show as runs side by side."""

    def __init__(self) -> None:
        self._module: ModuleType | None = None
        self._folder = Path()
        self._writers: dict[str, Any] = {}

    def start(self, run: RunInfo) -> None:
        self._module = import_tracker("tensorboard.summary", sink="tensorboard")
        self._folder = run.folder / "tensorboard"
        self._folder.mkdir(parents=True, exist_ok=True)

    def log(self, step: int, metrics: Mapping[str, float], stage: str) -> None:
        if self._module is None:
            raise RuntimeError("TensorBoardSink.log was called before start")
        try:
            if stage not in self._writers:
                self._writers[stage] = self._module.Writer(str(self._folder / stage))
            for name, value in finite(metrics).items():
                self._writers[stage].add_scalar(name, value, step)
            self._writers[stage].flush()
        except OSError as error:
            raise SinkError(f"TensorBoard: {error}") from error

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


class MlflowSink:
    """One MLflow run for each rlft run. Without MLFLOW_TRACKING_URI the data base lies in the run's own folder.

    The id is kept in `mlflow_run_id`, so that a resumed run goes on in the same MLflow run.
    """

    def __init__(self) -> None:
        self._mlflow: Any = None
        self._client: Any = None
        self._run_id = ""

    def start(self, run: RunInfo) -> None:
        self._mlflow = mlflow = import_tracker("mlflow", sink="mlflow")
        for name, value in {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}.items():
            os.environ.setdefault(name, value)  # its own defaults hold a step up for minutes when a server is away
        server = os.environ.get("MLFLOW_TRACKING_URI")
        address = server or f"sqlite:///{(run.folder / 'mlflow.db').resolve()}"
        try:
            self._client = mlflow.MlflowClient(tracking_uri=address)
            self._run_id = self._resume_or_create(run, local=server is None)
        except (mlflow.MlflowException, OSError) as error:
            self._client = None
            raise UserError(
                f"MLflow at {address} cannot be used: {error}. Set MLFLOW_TRACKING_URI to a server that answers, "
                "or take mlflow out of tracking.sinks."
            ) from error

    def _resume_or_create(self, run: RunInfo, *, local: bool) -> str:
        kept = run.folder / "mlflow_run_id"
        if kept.exists():
            run_id = kept.read_text(encoding="utf-8").strip()
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        experiment = self._client.get_experiment_by_name(run.project)
        if experiment is None:
            artifacts = (run.folder / "mlflow_artifacts").resolve().as_uri() if local else None
            experiment_id = self._client.create_experiment(run.project, artifact_location=artifacts)
        else:
            experiment_id = experiment.experiment_id
        run_id = str(self._client.create_run(experiment_id, run_name=run.name).info.run_id)
        self._client.log_dict(run_id, dict(run.config), "recipe.resolved.json")
        kept.write_text(run_id + "\n", encoding="utf-8")
        return run_id

    def log(self, step: int, metrics: Mapping[str, float], stage: str) -> None:
        now_ms = int(time.time() * 1000)
        metric = self._mlflow.entities.Metric
        rows = [metric(f"{stage}/{name}", value, now_ms, step) for name, value in finite(metrics).items()]
        try:
            self._client.log_batch(self._run_id, metrics=rows)
        except (self._mlflow.MlflowException, OSError) as error:
            raise SinkError(f"MLflow: {error}") from error

    def close(self) -> None:
        if self._client is not None:
            self._client.set_terminated(self._run_id)
            self._client = None


class WandbSink:
    """One Weights & Biases run for each rlft run, with each stage's own step as the x axis.

    The id is kept in `wandb_run_id`, so that a resumed run goes on in the same place. WANDB_MODE and WANDB_API_KEY are
    read by wandb itself.
    """

    def __init__(self) -> None:
        self._wandb: Any = None
        self._run: Any = None
        self._stages: set[str] = set()

    def start(self, run: RunInfo) -> None:
        self._wandb = wandb = import_tracker("wandb", sink="wandb")
        kept = run.folder / "wandb_run_id"
        run_id = kept.read_text(encoding="utf-8").strip() if kept.exists() else secrets.token_hex(4)
        try:
            self._run = wandb.init(
                project=run.project,
                name=run.name,
                id=run_id,
                resume="allow",
                dir=str(run.folder),
                config=dict(run.config),
            )
        except (wandb.Error, OSError) as error:
            raise UserError(
                f"Weights & Biases cannot be used: {error}. Set WANDB_API_KEY, or WANDB_MODE=offline, or take wandb "
                "out of tracking.sinks."
            ) from error
        kept.write_text(run_id + "\n", encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float], stage: str) -> None:
        row = {f"{stage}/{name}": value for name, value in finite(metrics).items()}
        try:
            if stage not in self._stages:
                # wandb's own step may only grow; a stage's starts at 0 and can go back, so it is an axis of its own.
                self._run.define_metric(f"{stage}/step")
                self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
                self._stages.add(stage)
            self._run.log(row | {f"{stage}/step": step})
        except (self._wandb.Error, OSError) as error:
            raise SinkError(f"Weights & Biases: {error}") from error

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None


def _otel() -> Sink:
    from services.observe.traces import TraceSink  # it stands on this file

    return TraceSink()


SINKS: dict[str, Callable[[], Sink]] = {
    "tensorboard": TensorBoardSink,
    "mlflow": MlflowSink,
    "wandb": WandbSink,
    "otel": _otel,
}


def make_sinks(names: Sequence[str]) -> list[Sink]:
    """The sinks that a recipe names, not yet started. Raises UserError for a name there is no sink for."""
    for name in names:
        if name not in SINKS:
            raise UserError(f"there is no tracker {name!r}; choose from {', '.join(sorted(SINKS))}")
    return [SINKS[name]() for name in names]


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are finite numbers: what trackers accept."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def import_tracker(module: str, *, sink: str) -> ModuleType:
    """Import a tracker's package only when it is asked for. Raises UserError that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"the tracker {sink!r} needs a package that cannot be imported ({error}). "
            f"Install it with: pip install 'rlft[{sink}]', or take {sink} out of tracking.sinks."
        ) from error
