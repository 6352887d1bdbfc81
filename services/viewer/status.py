"""What a run is doing: from the status.json that a working run writes, else from the records of its stages. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.observe.wording import clock_time, compact
from services.pipeline.record import RECORD, read_record
from services.viewer.folders import METRICS, RECIPE, STATUS, read_object, stage_folders
from services.viewer.metrics import MetricsStore, Spark

#: A run that says it works and was not heard of for so long does not.
SILENT_S = 60.0
WORKING = ("starting", "waiting", "running", "stopping")
#: State -> (a sign beside the word, so that it is not told by colour alone; what it means).
STATES = {
    "running": ("▶", "works"),
    "starting": ("◔", "starts its parts"),
    "waiting": ("◷", "waits for room on the cluster"),
    "stopping": ("◑", "saves a checkpoint and ends"),
    "done": ("✓", "all stages are done"),
    "stopped": ("■", "was stopped; `rlft resume` goes on from its last checkpoint"),
    "failed": ("✕", "ended with an error"),
    "lost": ("?", "said that it works, and was not heard of since"),
    "unfinished": ("◌", "some stages are not done, and nobody works on them"),
}


#: What the newest step is told by: metric, label.
_FACTS = (
    ("reward/mean", "Reward"),
    ("loss/mean", "Loss"),
    ("kl/mean", "KL"),
    ("tokens/per_second", "Tokens a second"),
    ("policy/lag", "Staleness in steps"),
    ("engines/healthy", "Healthy engines"),
    ("time/step_s", "Seconds a step"),
)


@dataclass(frozen=True, slots=True)
class Actor:
    """A process of the run, as it was at the last heartbeat."""

    name: str
    kind: str
    state: str
    node: str
    pid: str


@dataclass(frozen=True, slots=True)
class StageState:
    """A stage: `state` is done, now, before (interrupted) or next."""

    name: str
    type: str
    state: str
    seconds: float


@dataclass(frozen=True, slots=True)
class RunState:
    """A run as the list and the head of its page show it. Times are since the epoch; `heard_s` is the last sign of life."""

    name: str
    state: str
    stage: str
    stages: tuple[StageState, ...]
    step: int | None
    num_steps: int | None
    eta_s: float | None
    started_s: float | None
    heard_s: float
    spark: Spark
    model: str
    where: str = ""
    actors: tuple[Actor, ...] = ()
    scalable: bool = False
    error: str = ""
    notices: tuple[str, ...] = ()

    @property
    def works(self) -> bool:
        """Whether somebody works on it, so that it can be asked to stop."""
        return self.state in WORKING

    @property
    def sign(self) -> str:
        return STATES[self.state][0]

    @property
    def meaning(self) -> str:
        return STATES[self.state][1]

    @property
    def share(self) -> float | None:
        """How much of its stage is done, in [0, 1]."""
        if self.step is None or not self.num_steps:
            return None
        return min(1.0, self.step / self.num_steps)


def state_of(folder: Path, store: MetricsStore, *, now: float | None = None) -> RunState:
    """What is known of one run. Missing and torn files are gone without."""
    now = time.time() if now is None else now
    said = read_object(folder / STATUS)
    recipe = read_object(folder / RECIPE)
    spark = store.spark(folder / METRICS)
    heard = _number(said.get("time")) or _touched(folder)
    state = _state(said, folder, recipe, silent=now - heard > SILENT_S)
    stage = str(said.get("stage") or spark.last.get("stage") or "")
    stages = _stages(folder, recipe, stage if state in WORKING else "")
    if not said:
        stage = next((one.name for one in stages if one.state == "now"), stage)
    if state == "done" and stages:
        stage = stages[-1].name
    num_steps = _whole(said.get("num_steps")) or _num_steps(recipe, stage)  # an evaluation has none
    return RunState(
        name=folder.name,
        state=state,
        stage=stage,
        stages=stages,
        step=_step(said, spark.last, stage) if num_steps is not None and state != "done" else None,
        num_steps=num_steps,
        eta_s=_number(said.get("eta_s")),
        started_s=_number(said.get("started")),
        heard_s=heard,
        spark=spark,
        model=_model(recipe),
        where=" ".join(f"{key} {said[key]}" for key in ("host", "pid") if said.get(key)),
        actors=tuple(_actor(one) for one in _list(said.get("actors")) if isinstance(one, Mapping)),
        scalable=said.get("scalable") is True,
        error=str(said.get("error") or ""),
        notices=tuple(str(one) for one in _list(said.get("notices"))),
    )


def facts_of(run: RunState) -> list[tuple[str, str]]:
    """The newest step of a working run in a few numbers."""
    last = run.spark.last if run.works and run.spark.last.get("stage") == run.stage else {}
    found = [(label, _number(last.get(metric))) for metric, label in _FACTS]
    return [(label, compact(value)) for label, value in found if value is not None]


def ago(seconds: float) -> str:
    """`12 s`, `3 min`, `5 h`, `2 d`."""
    for limit, size, unit in ((90, 1, "s"), (90 * 60, 60, "min"), (36 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{max(0, round(seconds / size))} {unit}"
    return f"{round(seconds / 86400)} d"


def remaining(eta_s: float | None) -> str:
    """`0:04:12`, or nothing."""
    return clock_time(eta_s) if eta_s is not None else ""


def _state(said: Mapping[str, Any], folder: Path, recipe: Mapping[str, Any], *, silent: bool) -> str:
    told = str(said.get("state") or "")
    if told in STATES:
        return "lost" if told in WORKING and silent else told
    names = _names(recipe)
    records = {path.name: read_record(path) for path in stage_folders(folder)}
    done = [name for name, record in records.items() if record is not None and record.done]
    if names and set(names) <= set(done):
        return "done"
    if silent:
        return "unfinished"
    return "running" if records else "starting"


def _stages(folder: Path, recipe: Mapping[str, Any], working_on: str) -> tuple[StageState, ...]:
    types = {str(stage.get("name")): str(stage.get("type", "")) for stage in _recipe_stages(recipe)}
    found = {path.name: read_record(path) for path in stage_folders(folder)}
    names = list(types) or [name for name, record in found.items() if record is not None]
    begun = [name for name in names if (record := found.get(name)) is not None and not record.done]
    now = working_on if working_on in names and working_on not in _done(found) else (begun[-1] if begun else "")
    states = []
    for name in names:
        record = found.get(name)
        state = "next"
        if record is not None:
            state = "done" if record.done else "before"
        if working_on and name == now and state != "done":
            state = "now"
        kind = types.get(name) or (record.type if record is not None else "")
        states.append(StageState(name, kind, state, record.seconds if record is not None else 0.0))
    return tuple(states)


def _done(records: Mapping[str, Any]) -> set[str]:
    return {name for name, record in records.items() if record is not None and record.done}


def _step(said: Mapping[str, Any], last: Mapping[str, Any], stage: str) -> int | None:
    step = _whole(said.get("step"))
    if step is None and last.get("stage") == stage:
        step = _whole(last.get("step"))
        step = None if step is None else step + 1  # rows count from 0, people count what is done
    return step


def _num_steps(recipe: Mapping[str, Any], stage: str) -> int | None:
    return next((_whole(one.get("num_steps")) for one in _recipe_stages(recipe) if one.get("name") == stage), None)


def _names(recipe: Mapping[str, Any]) -> list[str]:
    return [str(stage.get("name")) for stage in _recipe_stages(recipe)]


def _recipe_stages(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [stage for stage in _list(recipe.get("stages")) if isinstance(stage, Mapping)]


def _model(recipe: Mapping[str, Any]) -> str:
    model = recipe.get("model")
    return str(model.get("name", "")) if isinstance(model, Mapping) else ""


def _touched(folder: Path) -> float:
    """When anything that a run writes all the time was written last."""
    files = [folder / METRICS, folder / RECIPE, *(path / RECORD for path in stage_folders(folder))]
    return max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)


def _actor(one: Mapping[str, Any]) -> Actor:
    return Actor(
        *(str(one.get(key) or "") for key in ("name", "kind", "state", "node", "pid"))  # process 0 is one not known
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
