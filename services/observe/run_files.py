"""Reads what a run left in its folder. Missing files are empty here and named; damaged ones raise DataError."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlft_core.errors import DataError
from services.observe import jsonl

#: Keys of a metrics.jsonl line that are not metrics.
_SET_ASIDE = re.compile(r"\.old-\d+$")  # folders of stages that were run again with other inputs
_NOT_METRICS = frozenset({"stage", "step", "time"})


@dataclass(frozen=True, slots=True)
class StageMetrics:
    """The recorded steps of one stage: `steps` [n] increasing; `columns` name -> [n], None where a step lacks it."""

    name: str
    steps: tuple[int, ...]
    columns: Mapping[str, tuple[float | None, ...]]

    def points(self, metric: str) -> tuple[list[int], list[float]]:
        """The steps at which the metric is there, and its values."""
        pairs = [
            (step, value)
            for step, value in zip(self.steps, self.columns.get(metric, (None,) * len(self.steps)), strict=True)
            if value is not None
        ]
        return [step for step, _ in pairs], [value for _, value in pairs]


@dataclass(frozen=True, slots=True)
class RunFiles:
    """A run folder, read. `missing` says in words which parts were not there.

    `reward_models` holds what reward-model stages found, `token_rewards` held-out edits with a model's token rewards,
    `watches` the looks of PPO stages that were watched, by stage; most runs have none of them, so they are never missing.
    """

    folder: Path
    recipe: Mapping[str, Any]
    summary: Mapping[str, Any]
    stages: tuple[StageMetrics, ...]
    samples: tuple[Mapping[str, Any], ...]
    outputs: tuple[Mapping[str, Any], ...]
    reward_models: Mapping[str, Mapping[str, Any]]
    token_rewards: Mapping[str, tuple[Mapping[str, Any], ...]]
    watches: Mapping[str, tuple[Mapping[str, Any], ...]]
    finished_at_s: float | None
    missing: tuple[str, ...]


def read_run(folder: Path) -> RunFiles:
    """Read a run's folder. Raises DataError when it is none, or a file in it cannot be read."""
    if not folder.is_dir():
        raise DataError(
            f"there is no run folder {folder}; give the folder that `rlft run` wrote, such as runs/quickstart"
        )
    missing: list[str] = []
    rows = _rows(folder / "metrics.jsonl", missing, "no step was recorded, so there are no curves")
    samples = _rows(folder / "samples.jsonl", missing, "no samples were written during training")
    recipe = _object(folder / "recipe.resolved.json", missing, "the configuration is not known")
    summary = _object(folder / "summary.json", missing, "the run has no evaluation yet")
    output_files = sorted(folder.glob("stages/*/outputs.jsonl"), key=lambda path: path.stat().st_mtime)
    if not output_files:
        missing.append("stages/*/outputs.jsonl: no held-out outputs to set side by side")
    outputs = list(jsonl.read_rows(output_files[-1])) if output_files else []
    times = [row["time"] for row in rows if isinstance(row.get("time"), int | float)]
    return RunFiles(
        folder=folder,
        recipe=recipe,
        summary=summary,
        stages=_by_stage(rows),
        samples=tuple(samples),
        outputs=tuple(outputs),
        reward_models=reward_models_of(folder),
        token_rewards={
            path.parent.name: tuple(jsonl.read_rows(path)) for path in sorted(folder.glob("stages/*/tokens.jsonl"))
        },
        watches=watches_of(folder),
        finished_at_s=max(times) if times else None,
        missing=tuple(missing),
    )


def reward_models_of(folder: Path) -> dict[str, Mapping[str, Any]]:
    """By stage: the result.json of those that have kinds of bad outputs in it; an evaluation's has none."""
    results = {
        path.parent.name: _object(path, [], "")
        for path in sorted(folder.glob("stages/*/result.json"))
        if not _SET_ASIDE.search(path.parent.name)
    }
    return {stage: result for stage, result in results.items() if "kinds" in result}


def watches_of(folder: Path) -> dict[str, tuple[Mapping[str, Any], ...]]:
    """By stage: the looks in its watch.jsonl in the order of their steps; a step written twice counts as written last."""
    found: dict[str, tuple[Mapping[str, Any], ...]] = {}
    for path in sorted(folder.glob("stages/*/watch.jsonl")):
        rows: list[dict[str, Any]] = list(jsonl.read_rows(path))
        looks = {int(look.get("step", 0)): look for look in rows}
        if looks:
            found[path.parent.name] = tuple(looks[step] for step in sorted(looks))
    return found


def _rows(path: Path, missing: list[str], consequence: str) -> list[dict[str, Any]]:
    rows = list(jsonl.read_rows(path)) if path.exists() else []
    if not rows:
        missing.append(f"{path.name}: {consequence}")
    return rows


def _object(path: Path, missing: list[str], consequence: str) -> dict[str, Any]:
    if not path.exists():
        missing.append(f"{path.name}: {consequence}")
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path} is not JSON: {error}. Mend it, or delete it and build the report without it."
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds {type(value).__name__}, not a JSON object. Mend or delete it.")
    return value


def _by_stage(rows: list[dict[str, Any]]) -> tuple[StageMetrics, ...]:
    """Stages in the order in which they first appear; a step written twice counts as written last."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(str(row.get("stage", "")), {})[int(row.get("step", 0))] = row
    stages = []
    for name, by_step in found.items():
        steps = tuple(sorted(by_step))
        metrics = sorted({key for row in by_step.values() for key in row} - _NOT_METRICS)
        columns = {metric: tuple(_number(by_step[step].get(metric)) for step in steps) for metric in metrics}
        stages.append(StageMetrics(name=name, steps=steps, columns=columns))
    return tuple(stages)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
