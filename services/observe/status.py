"""status.json in a run's folder: what the run is doing now, for whoever is not its terminal.

    {"run", "state", "pid", "host", "time", "started", "stage", "stage_type", "stages", "step", "num_steps", "eta_s",
     "metrics", "actors": [{"name", "kind", "state", "node", "pid"}], "scalable", "error", "notices"}

`state` is starting, waiting, running, stopping, done, failed or stopped. `time` is the last sign of life, in seconds since the
epoch: a process that was killed leaves a file that says "running" and grows old.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.observe.observer import Observer

STATUS = "status.json"
SILENT_S = 30.0
"""A run that says it is at work and was not heard of for so long is taken for lost."""
AT_WORK = ("starting", "waiting", "running", "stopping")


@dataclass(slots=True)
class Status:
    """Writes one run's file. `stages`: name and type of each, in order."""

    observer: Observer
    stages: Sequence[tuple[str, str]]
    state: str = "starting"
    error: str | None = None
    stage: str = ""
    started: float = field(default_factory=time.time)

    def write(self, actors: Sequence[dict[str, Any]] = (), *, scalable: bool = False) -> None:
        """Say how the run is. Written aside and renamed: a reader sees all of it or the one before.

        `scalable`: whether the stage has actors that come and go.
        """
        progress = self.observer.progress
        here = progress.stage == self.stage
        told = {
            "run": self.observer.run.name,
            "state": self.state,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "time": round(time.time(), 3),
            "started": round(self.started, 3),
            "stage": self.stage,
            "stage_type": dict(self.stages).get(self.stage, ""),
            "stages": [name for name, _ in self.stages],
            "step": progress.step if here else 0,
            "num_steps": progress.num_steps if here else None,
            "eta_s": progress.eta_s if here and self.state in AT_WORK else None,
            "metrics": {k: v for k, v in progress.metrics.items() if math.isfinite(v)} if here else {},
            "actors": list(actors),
            "scalable": scalable,
            "error": self.error,
            "notices": list(self.observer.notices),
        }
        file = self.observer.run.folder / STATUS
        aside = file.with_name(f".{STATUS}.{os.getpid()}")
        aside.write_text(json.dumps(told), encoding="utf-8")
        aside.replace(file)


def read_status(run: Path, now: Callable[[], float] = time.time) -> dict[str, Any] | None:
    """A run's status; None when it never wrote one. A run that should be at work and is silent is "lost"."""
    try:
        told: dict[str, Any] = json.loads((run / STATUS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    told["silent_s"] = max(0.0, now() - told["time"])
    if told["state"] in AT_WORK and told["silent_s"] > SILENT_S:
        told["state"] = "lost"
    return told
