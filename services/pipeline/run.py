"""From a recipe to a run folder.

    check ─▶ lock runs/<name> ─▶ Ray ─▶ stage ─▶ stage ─▶ ... ─▶ summary.json, report.html

Everything that can be known to be wrong is found before Ray starts. One process works on a run at a time.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from rlft_core.config.online import OnlineStage
from rlft_core.config.recipe import Recipe
from rlft_core.config.stages import DpoStage, EvaluateStage, RewardModelStage, StageConfig
from rlft_core.data.prepare import rows_of
from rlft_core.errors import ConfigError
from rlft_core.models.default_model import resolve_model
from services.cluster.room import Turn, room_for
from services.cluster.session import Needs, num_gpus_here, session, wait_for
from services.control.desk import Desk
from services.observe.event_log import event_terminal
from services.observe.judge_alarm import JudgeAlarm
from services.observe.observer import Observer
from services.observe.ray_metrics import RayMetrics
from services.observe.report import build_report
from services.observe.sinks import RunInfo, Sink, make_sinks
from services.observe.status import Status
from services.pipeline.attended import attended, outcome
from services.pipeline.context import RunContext, needs_of
from services.pipeline.record import (
    StageRecord,
    fingerprints,
    read_record,
    set_aside,
    write_json,
    write_record,
)
from services.pipeline.stage_dpo import run_dpo
from services.pipeline.stage_evaluate import OUTPUTS, RESULT, run_evaluate
from services.pipeline.stage_online import run_online_stage
from services.pipeline.stage_reward_model import run_reward_model
from services.pipeline.stage_sft import run_sft

_NOTE_EVERY_S = 10.0


def run_recipe(recipe: Recipe, *, runs_dir: Path, base_dir: Path, fresh: bool = False) -> Path:
    """Run all stages that are not done yet; returns the run's folder.

    `fresh` moves earlier results of this run aside first. Raises UserError for what a person can mend and ServiceError
    for what failed while running; the run can be started again and goes on where it stopped.
    """
    assert recipe.model.dtype != "auto", "the caller settles it (services.pipeline.precision)"
    transformers_logging.disable_progress_bar()  # a bar for each load of weights tells nobody anything
    # Ray sets the workers' directory; their paths must not depend on it.
    folder = (runs_dir / recipe.name).absolute()
    splits = rows_of(recipe.data, base_dir, recipe.seed)
    model = str(resolve_model(recipe.model.name, trust_remote_code=recipe.model.trust_remote_code))
    prints = fingerprints(recipe, model, base_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if fresh and (folder / "stages").exists():
            set_aside(folder / "stages")
        config = recipe.model_dump(mode="json")
        write_json(folder / "recipe.resolved.json", config)
        info = RunInfo(recipe.name, folder, recipe.tracking.project, config)
        terminal = event_terminal(recipe.name, folder)
        trackers: list[Sink] = [JudgeAlarm(terminal.warn), RayMetrics(), *make_sinks(recipe.tracking.sinks)]
        observer = Observer(info, trackers=trackers, terminal=terminal)
        context = RunContext(
            recipe, folder, base_dir.absolute(), model, splits, prints, observer, Desk(folder, observer.notice)
        )
        for note in splits.notes:
            context.notice(note)
        status = Status(observer, [(stage.name, stage.type) for stage in recipe.stages])
        with outcome(status), terminal.run():
            with observer.started():
                _run_stages(context, status)
            _finish(context)
    return folder


def _run_stages(context: RunContext, status: Status) -> None:
    todo = [stage for stage in context.recipe.stages if not _is_done(context, stage)]
    for stage in context.recipe.stages:
        if stage not in todo:
            context.observer.terminal.line(f"{stage.name}: done before, with the same inputs; not run again")
    if not todo:
        return
    least = Needs()
    for stage in todo:
        least = least.largest(needs_of(context.recipe, stage, gpus_there=0))
    with session(context.recipe.cluster, least, model_bytes=_bytes_of(context.base_model)):
        for stage in todo:
            status.stage = stage.name
            context.desk.between(before=stage.name)  # it may have been asked in the last step of the stage before
            with _room(context, stage, status) as turn:
                _run_stage(context, stage, status, turn)


@contextmanager
def _room(context: RunContext, stage: StageConfig, status: Status) -> Iterator[Turn | None]:
    """Wait until the cluster has what a stage asks for; on one that others use too, until it is free."""
    cluster = context.recipe.cluster
    needs = needs_of(context.recipe, stage, gpus_there=num_gpus_here())
    if cluster.address == "local":
        wait_for(needs, cluster.wait_s)
        yield None
        return
    status.state = "waiting"

    def tick() -> None:
        status.write()
        context.desk.between(before=stage.name)

    with room_for(context.recipe.name, needs, cluster, say=context.notice, tick=tick) as turn:
        yield turn


def _is_done(context: RunContext, stage: StageConfig) -> bool:
    record = read_record(context.stage_folder(stage.name))
    return record is not None and record.done and record.fingerprint == context.fingerprints[stage.name]


def _run_stage(context: RunContext, stage: StageConfig, status: Status, turn: Turn | None) -> None:
    folder = context.stage_folder(stage.name)
    fingerprint = context.fingerprints[stage.name]
    before = read_record(folder)
    if before is not None and before.fingerprint != fingerprint:
        context.notice(f"{stage.name}: its inputs changed; the earlier results are now in {set_aside(folder).name}")
        before = None
    folder.mkdir(parents=True, exist_ok=True)
    earlier = before.seconds if before else 0.0
    started = time.monotonic()

    def note(*, done: bool = False) -> None:
        seconds = earlier + time.monotonic() - started
        write_record(folder, StageRecord(stage.name, stage.type, fingerprint, done, seconds))

    note()
    try:
        asyncio.run(_noting(attended(_dispatch(context, stage), context.desk, status, turn), note))
    except BaseException:
        note()
        raise
    note(done=True)


async def _noting(work: Coroutine[Any, Any, None], note: Callable[[], None]) -> None:
    """Do the work and write down now and then how long it took: a run that is killed loses little of its time."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(_NOTE_EVERY_S)
            note()

    ticker = asyncio.create_task(tick())
    try:
        await work
    finally:
        ticker.cancel()


async def _dispatch(context: RunContext, stage: StageConfig) -> None:
    if isinstance(stage, OnlineStage):
        await run_online_stage(context, stage)
    elif isinstance(stage, RewardModelStage):
        await run_reward_model(context, stage)
    elif isinstance(stage, DpoStage):
        await run_dpo(context, stage)
    elif isinstance(stage, EvaluateStage):
        await run_evaluate(context, stage)
    else:
        await run_sft(context, stage)


def _finish(context: RunContext) -> None:
    """Write summary.json and the report; show what came out."""
    summary = summarize(context)
    write_json(context.folder / "summary.json", summary)
    report = build_report(context.folder)
    terminal = context.observer.terminal
    for stage in context.recipe.stages:
        if isinstance(stage, EvaluateStage):
            found = json.loads((context.stage_folder(stage.name) / RESULT).read_text(encoding="utf-8"))
            terminal.evaluation(found["evaluation"], found["differences"])
            rows = [json.loads(line) for line in (context.stage_folder(stage.name) / OUTPUTS).open(encoding="utf-8")]
            terminal.samples(rows, list(stage.systems), limit=stage.show_samples)
    terminal.line(f"report: {report}")


def summarize(context: RunContext) -> dict[str, Any]:
    """{"evaluation": ..., "differences": ..., "seconds": {stage: s}, "stages": [...]} of the finished stages."""
    summary: dict[str, Any] = {
        "name": context.recipe.name,
        "evaluation": {},
        "differences": {},
        "seconds": {},
        "stages": [],
    }
    for stage in context.recipe.stages:
        folder = context.stage_folder(stage.name)
        record = read_record(folder)
        if record is None:
            continue
        summary["seconds"][stage.name] = round(record.seconds, 1)
        summary["stages"].append({"name": stage.name, "type": stage.type, "done": record.done})
        if isinstance(stage, EvaluateStage) and (folder / RESULT).is_file():
            found = json.loads((folder / RESULT).read_text())
            summary["stages"][-1]["systems"] = list(found["evaluation"])
            summary["evaluation"] |= found["evaluation"]
            summary["differences"] |= found["differences"]
    return summary


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second process away from a run folder. The lock goes with the process, however it ends."""
    with (folder / ".lock").open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise ConfigError(
                f"another process ({handle.read().strip() or 'unknown'}) is working on {folder}; wait for it, or give this "
                "run another name with --name"
            ) from None
        handle.seek(0)
        handle.truncate()
        handle.write(f"pid {os.getpid()}")
        handle.flush()
        yield


def _bytes_of(model: str) -> int:
    folder = Path(model)
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 2 << 30
