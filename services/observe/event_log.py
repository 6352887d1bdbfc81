"""What a run tells, as one JSON object a line: for whoever reads logs with a program.

    {"time": "2026-11-22T05:14:09.120Z", "level": "warning", "event": "warning", "run": "quickstart", "stage": "ppo",
     "step": 7, "actor": "engine-0", "message": "engine engine-0 died in 'generate': ..."}

`log.jsonl` in the run's folder always has it, across restarts of the run. With RLFT_LOG=json the same lines go to standard
output in place of the text for people, where a cluster's log collector finds them. `step` is the last step that is done.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from rlft_core.errors import UserError
from services.observe import jsonl
from services.observe.terminal import COLUMNS, Estimates, Terminal

FILE = "log.jsonl"
VARIABLE = "RLFT_LOG"
COORDINATOR = "coordinator"
_ACTOR = re.compile(r"\bengine (\S+)")


class EventTerminal(Terminal):
    """A terminal that also writes down what it is told. `as_json`: nothing but these lines on `stream`."""

    def __init__(self, run: str, folder: Path, *, as_json: bool = False, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._run, self._file, self._as_json = run, folder / FILE, as_json
        self._live = self._live and not as_json
        self._now: str | None = None
        self._step: int | None = None
        self._writes = True

    @contextmanager
    def run(self) -> Iterator[None]:
        """Write down that the run starts and how it ends."""
        _cut_torn_line(self._file)
        self.event("run started", pid=os.getpid(), host=socket.gethostname())
        try:
            yield
        except BaseException as error:
            self.event("run ended early", level="error", message=f"{type(error).__name__}: {error}")
            raise
        self.event("run done")

    def event(self, event: str, *, level: str = "info", message: str | None = None, **more: Any) -> None:
        """Write one line. A folder that cannot be written to is told of once; the run goes on."""
        found = _ACTOR.search(message or "")
        row: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level,
            "event": event,
            "run": self._run,
            "stage": self._now,
            "step": self._step,
            "actor": found[1] if found else COORDINATOR,
        }
        row |= ({"message": message} if message is not None else {}) | more
        if self._as_json:
            self._stream.write(json.dumps(jsonl.finite(row)) + "\n")  # ASCII: no stream refuses it
            self._stream.flush()
        if not self._writes:
            return
        try:
            jsonl.append_rows(self._file, [row])
        except OSError as error:
            self._writes = False
            self.warn(f"{self._file}: {error}. The run goes on.")

    def stage(self, name: str, num_steps: int | None = None) -> None:
        super().stage(name, num_steps)
        self._now, self._step = name, None
        self.event("stage started", num_steps=num_steps)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        super().step(step, metrics)
        self._step = step
        told: dict[str, Any] = {name: metrics[name] for name, *_ in COLUMNS if name in metrics}
        self.event("step done", **told)

    def end_stage(self, seconds: float | None = None) -> None:
        super().end_stage(seconds)
        if self._now is None:
            return
        if seconds is None:
            self.event("stage ended early", level="error")
        else:
            self.event("stage done", seconds=round(seconds, 1))
        self._now = self._step = None

    def warn(self, text: str) -> None:
        super().warn(text)
        self.event("warning", level="warning", message=text)

    def line(self, text: str) -> None:
        super().line(text)
        self.event("note", message=text)

    def evaluation(self, evaluation: Mapping[str, Estimates], differences: Mapping[str, Estimates]) -> None:
        super().evaluation(evaluation, differences)
        means = {system: {name: found["mean"] for name, found in of.items()} for system, of in evaluation.items()}
        self.event("evaluation", means=means)

    def reward_model(self, name: str, result: Mapping[str, Any]) -> None:
        super().reward_model(name, result)
        self.event("reward model", accuracy=result["overall"]["mean"])

    def samples(self, rows: Sequence[Mapping[str, object]], systems: Sequence[str], *, limit: int = 3) -> None:
        """For people only: they stand in the run's folder."""
        if not self._as_json:
            super().samples(rows, systems, limit=limit)

    def _say(self, text: str) -> None:
        if not self._as_json:
            super()._say(text)


def event_terminal(run: str, folder: Path, environ: Mapping[str, str] = os.environ) -> EventTerminal:
    """The terminal of a run, as RLFT_LOG asks for it. Raises UserError for a value that means nothing."""
    asked = environ.get(VARIABLE, "").strip().lower()
    if asked not in ("", "text", "json"):
        raise UserError(f"{VARIABLE} is {asked!r}; it is `text` (or nothing), for people, or `json`, for programs")
    return EventTerminal(run, folder, as_json=asked == "json")


def _cut_torn_line(file: Path) -> None:
    """A killed process may have left half a line; what is appended next must not be glued to it."""
    written = file.read_bytes() if file.is_file() else b""
    whole = written.rfind(b"\n") + 1
    if whole < len(written):
        os.truncate(file, whole)
