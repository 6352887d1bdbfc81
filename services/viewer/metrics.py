"""Metrics of a run, read as the file grows and thinned before they are sent. Draws nothing.

A page asks every few seconds. What was read before is kept as columns of numbers, only new lines are parsed, and no more points
leave than a chart can show. A run that went back to a checkpoint replaces its file: then it is read from the start.
"""

from __future__ import annotations

import math
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from services.observe.run_files import StageMetrics
from services.viewer.folders import age_key, parsed

MOST_POINTS = 400
_NOT_METRICS = frozenset({"stage", "step", "time"})
_KEPT_RUNS = 12
_READ_WHOLE = 512 * 1024  # a larger file is looked into here and there for the list of runs
_LOOKS = 80
_TAIL = 64 * 1024
#: What the list of runs shows of each, the first that there is.
HEADLINES = (("reward/mean", "reward"), ("pairs/accuracy", "accuracy"), ("loss/mean", "loss"))


@dataclass(slots=True)
class _Columns:
    """Steps [n] and by metric [n] values, NaN where a step lacks it."""

    steps: array[int]
    values: dict[str, array[float]]

    def add(self, row: Mapping[str, Any]) -> None:
        size = len(self.steps)
        self.steps.append(int(row.get("step") or 0))
        for name, value in row.items():
            if name in _NOT_METRICS or not isinstance(value, int | float):
                continue
            column = self.values.get(name)
            if column is None:
                column = self.values[name] = array("d", [math.nan]) * size
            column.append(float(value))
        for column in self.values.values():
            if len(column) == size:
                column.append(math.nan)


class MetricsLog:
    """The metrics.jsonl of one run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._forget()

    def _forget(self) -> None:
        self._inode = self._offset = self.num_damaged = 0
        self._stages: dict[str, _Columns] = {}
        self.last: dict[str, Any] = {}
        """The newest row."""

    @property
    def version(self) -> str:
        """Another one whenever there is something new to show."""
        return f"{self._inode}.{self._offset}"

    @property
    def stages(self) -> tuple[str, ...]:
        """In the order in which they first appear."""
        return tuple(self._stages)

    def metrics(self, stage: str) -> tuple[str, ...]:
        """The names of what a stage recorded."""
        return tuple(sorted(self._stages[stage].values)) if stage in self._stages else ()

    def refresh(self) -> None:
        """Read what was written since the last time."""
        with self._lock:
            inode, size, _ = age_key(self._path)
            if inode != self._inode or size < self._offset:
                self._forget()
                self._inode = inode
            if size > self._offset:
                with self._path.open("rb") as file:
                    file.seek(self._offset)
                    self._take(file.read(size - self._offset))

    def _take(self, text: bytes) -> None:
        end = text.rfind(b"\n") + 1  # the rest is still being written
        self._offset += end
        for line in text[:end].splitlines():
            row = parsed(line)
            if row is None:
                self.num_damaged += bool(line.strip())
                continue
            self._stages.setdefault(str(row.get("stage", "")), _Columns(array("q"), {})).add(row)
            self.last = row

    def read(self, stage: str, names: Sequence[str] | None = None, *, most: int = MOST_POINTS) -> StageMetrics:
        """At most `most` steps: the means of neighbours, each at the first of their steps. `names`: only these metrics."""
        with self._lock:
            columns = self._stages.get(stage)
            if columns is None:
                return StageMetrics(stage, (), {})
            steps = np.array(columns.steps, dtype=np.int64)
            wanted = [name for name in (columns.values if names is None else names) if name in columns.values]
            values = {name: np.array(columns.values[name]) for name in sorted(wanted)}
        order = _last_of_each(steps)
        steps = steps[order]
        size = max(1, math.ceil(len(steps) / most))
        thinned = {name: _means(column[order], size) for name, column in values.items()}
        return StageMetrics(stage, tuple(steps[::size].tolist()), thinned)


def _last_of_each(steps: np.ndarray) -> np.ndarray:
    """Places of the steps in increasing order; one that was written twice counts as written last."""
    _, from_the_end = np.unique(steps[::-1], return_index=True)
    return len(steps) - 1 - from_the_end


def _means(values: np.ndarray, size: int) -> tuple[float | None, ...]:
    padded = np.full(-(-len(values) // size) * size, math.nan)
    padded[: len(values)] = values
    parts = padded.reshape(-1, size)
    there = np.isfinite(parts)
    counts = there.sum(axis=1)
    sums = np.where(there, parts, 0.0).sum(axis=1)
    return tuple(float(total / count) if count else None for total, count in zip(sums, counts, strict=True))


@dataclass(frozen=True, slots=True)
class Spark:
    """What the list shows of a run: a few points of its headline metric, and its newest row."""

    label: str
    values: tuple[float, ...]
    last: Mapping[str, Any]


class MetricsStore:
    """The logs of the runs that somebody looks at, the longest unused forgotten first."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._logs: OrderedDict[Path, MetricsLog] = OrderedDict()
        self._sparks: dict[Path, tuple[tuple[int, int, int], Spark]] = {}

    def log(self, path: Path) -> MetricsLog:
        """The log of one file, as it is now."""
        with self._lock:
            log = self._logs.pop(path, None) or MetricsLog(path)
            self._logs[path] = log
            while len(self._logs) > _KEPT_RUNS:
                self._logs.popitem(last=False)
        log.refresh()
        return log

    def spark(self, path: Path) -> Spark:
        """Cheap however large the file is: it is not read whole."""
        key = age_key(path)
        known = self._sparks.get(path)
        if known is None or known[0] != key:
            known = self._sparks[path] = (key, _spark(_sampled(path, key[1])))
        return known[1]


def _spark(rows: Sequence[Mapping[str, Any]]) -> Spark:
    last = rows[-1] if rows else {}
    for metric, label in HEADLINES:
        having = [row for row in rows if isinstance(row.get(metric), int | float)]
        if having:
            stage = having[-1].get("stage")  # the newest stage that has it
            points = {int(row.get("step") or 0): float(row[metric]) for row in having if row.get("stage") == stage}
            return Spark(label, tuple(points[step] for step in sorted(points)), last)
    return Spark("", (), last)


def _sampled(path: Path, size: int) -> list[dict[str, Any]]:
    """All rows of a small file; some of a large one, evenly spread, and always the last."""
    if size == 0:
        return []
    with path.open("rb") as file:
        if size <= _READ_WHOLE:
            lines = file.read().splitlines()
        else:
            lines = []
            for look in range(_LOOKS):
                file.seek(size * look // _LOOKS)
                if look:
                    file.readline(_TAIL)  # a part of a line
                lines.append(file.readline(_TAIL))
            file.seek(size - _TAIL)
            lines += file.read().splitlines()[1:][-2:]  # the very last may be torn
    return [row for line in lines if (row := parsed(line)) is not None]
