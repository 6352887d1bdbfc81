"""Samples of training by stage and step, and one row followed over steps. Finds them in files that grow; arranges nothing.

samples.jsonl may be large: each line is looked at once, and what is kept of it is its place in the file. watch-outputs.jsonl has
the answers to the same validation rows again and again; outputs.jsonl those of the evaluation.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from rlft_core.errors import DataError
from services.observe import jsonl
from services.observe.report_tokens import scale_of
from services.viewer.folders import SAMPLES, age_key, parsed, stage_folders

WATCH, OUTPUTS = "watch-outputs.jsonl", "outputs.jsonl"
_KEPT_RUNS = 6
_MOST_SIZES = 20_000


@dataclass(slots=True)
class _Sizes:
    """Sizes of token rewards, every `stride`-th of them: enough to know how strong a strong one is."""

    values: list[float] = field(default_factory=list)
    stride: int = 1
    seen: int = 0

    def add(self, reward: float) -> None:
        if self.seen % self.stride == 0:
            self.values.append(abs(reward))
        self.seen += 1
        if len(self.values) > _MOST_SIZES:
            self.values = self.values[::2]
            self.stride *= 2


@dataclass(slots=True)
class _Place:
    """Where a line stands, and of which row it is."""

    offset: int
    size: int
    id: str


class SampleIndex:
    """The samples.jsonl of one run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._forget()

    def _forget(self) -> None:
        self._inode = self._offset = self.num_damaged = 0
        self._places: dict[str, dict[int, list[_Place]]] = {}
        self._sizes: dict[str, _Sizes] = {}

    @property
    def version(self) -> str:
        """Another one whenever there are new samples."""
        return f"{self._inode}.{self._offset}"

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(self._places)

    def steps(self, stage: str) -> list[int]:
        """The steps whose samples were written."""
        return sorted(self._places.get(stage, {}))

    def scale(self, stage: str) -> float:
        """The size of token reward that is coloured fully, the same at every step of a stage."""
        known = self._sizes.get(stage)
        return scale_of({"reward": size} for size in known.values) if known else 0.0

    def refresh(self) -> None:
        """Look at the lines that are new."""
        with self._lock:
            inode, size, _ = age_key(self._path)
            if inode != self._inode or size < self._offset:
                self._forget()
                self._inode = inode
            if size <= self._offset:
                return
            with self._path.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):  # still being written
                        break
                    self._take(line)
                    self._offset += len(line)

    def _take(self, line: bytes) -> None:
        row = parsed(line)
        if row is None:
            self.num_damaged += bool(line.strip())
            return
        stage, step = str(row.get("stage", "")), int(row.get("step") or 0)
        place = _Place(self._offset, len(line), str(row.get("id", "")))
        self._places.setdefault(stage, {}).setdefault(step, []).append(place)
        for token in row.get("tokens") or ():
            self._sizes.setdefault(stage, _Sizes()).add(float(token.get("reward") or 0.0))

    def at(self, stage: str, step: int) -> dict[str, list[dict[str, Any]]]:
        """The samples of a step by row, in the order in which they were written."""
        return self._read(self._places.get(stage, {}).get(step, []))

    def of_row(self, stage: str, row_id: str) -> dict[int, list[dict[str, Any]]]:
        """Every sample of one row, by step."""
        steps = self._places.get(stage, {})
        found = {step: [place for place in steps[step] if place.id == row_id] for step in sorted(steps)}
        return {step: self._read(places)[row_id] for step, places in found.items() if places}

    def row_ids(self, stage: str) -> list[str]:
        """Rows that were sampled at more than one step, the most often sampled first."""
        steps = self._places.get(stage, {}).values()
        counts: dict[str, int] = {}
        for places in steps:
            for row_id in dict.fromkeys(place.id for place in places):
                counts[row_id] = counts.get(row_id, 0) + 1
        return sorted((row_id for row_id, count in counts.items() if count > 1), key=lambda row_id: -counts[row_id])

    def _read(self, places: list[_Place]) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        if not places:
            return found
        with self._path.open("rb") as file:
            for place in places:
                file.seek(place.offset)
                row = parsed(file.read(place.size))
                if row is not None:  # the file was replaced a moment ago; the next look sees the new one
                    found.setdefault(place.id, []).append(row)
        return found


class SampleStore:
    """The indexes of the runs that somebody looks at."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._indexes: OrderedDict[Path, SampleIndex] = OrderedDict()

    def index(self, folder: Path) -> SampleIndex:
        """The samples of a run, as they are now."""
        path = folder / SAMPLES
        with self._lock:
            index = self._indexes.pop(path, None) or SampleIndex(path)
            self._indexes[path] = index
            while len(self._indexes) > _KEPT_RUNS:
                self._indexes.popitem(last=False)
        index.refresh()
        return index


@dataclass(frozen=True, slots=True)
class Look:
    """What the model answered greedily to one validation row after `step` updates."""

    step: int
    output: str
    reward: float | None
    ended: bool


@dataclass(frozen=True, slots=True)
class Watched:
    """A validation row that the watch looks at again and again. Older runs did not write what it asks."""

    id: str
    prompt: str
    reference: str
    looks: tuple[Look, ...]


def watched_rows(folder: Path) -> dict[str, dict[str, Watched]]:
    """By stage and row. Stages without a watch are left out."""
    found = {}
    for stage in stage_folders(folder):
        rows: dict[str, dict[int, Mapping[str, Any]]] = {}
        for row in _rows(stage / WATCH):
            rows.setdefault(str(row.get("id", "")), {})[int(row.get("step") or 0)] = row
        if rows:
            found[stage.name] = {row_id: _watched(row_id, by_step) for row_id, by_step in rows.items()}
    return found


def evaluated_row(folder: Path, row_id: str) -> Mapping[str, Any] | None:
    """The line of the newest evaluation that has this row."""
    files = [stage / OUTPUTS for stage in stage_folders(folder) if (stage / OUTPUTS).is_file()]
    for file in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        for row in _rows(file):
            if str(row.get("id")) == row_id:
                return row
    return None


def _watched(row_id: str, by_step: Mapping[int, Mapping[str, Any]]) -> Watched:
    first = next(iter(by_step.values()))
    looks = tuple(
        Look(step, str(row.get("output", "")), _number(row.get("reward")), bool(row.get("ended", True)))
        for step, row in sorted(by_step.items())
    )
    return Watched(row_id, str(first.get("prompt", "")), str(first.get("reference", "")), looks)


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows up to a damaged one."""
    if not path.is_file():
        return
    try:
        yield from jsonl.read_rows(path)
    except DataError:
        return


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
