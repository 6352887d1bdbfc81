"""Which checkpoint each model name stands for, and the file in which that survives a restart.

    promote: current ─▶ history, new ─▶ current        rollback: the last of history ─▶ current
    promote with a share: new ─▶ canary                rollback: the canary goes

Values do not change: every step returns the next one. The file is written aside and renamed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rlft_core.errors import CheckpointError, ConfigError
from rlft_core.serving.types import Checkpoint

_KEPT = 20
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Served:
    """One model name. `origin` is what `rlft serve` was told; `percent` of the requests go to the `canary`."""

    name: str
    origin: str
    current: Checkpoint
    history: tuple[Checkpoint, ...] = ()
    canary: Checkpoint | None = None
    percent: float = 0.0

    @property
    def largest_rank(self) -> int:
        """Of the adapters that it stands for or may be rolled back to; 0 for whole weights."""
        return max(one.rank for one in (self.current, *self.history, *([self.canary] if self.canary else [])))

    def promoted(self, new: Checkpoint) -> Served:
        """With `new` for all requests; what was current can be rolled back to."""
        history = self.history if new == self.current else (*self.history, self.current)[-_KEPT:]
        return replace(self, current=new, history=history, canary=None, percent=0.0)

    def with_canary(self, new: Checkpoint, percent: float) -> Served:
        """With `new` for a share of the requests."""
        return replace(self, canary=new, percent=percent)

    def rolled_back(self) -> Served:
        """Without its canary, else with the checkpoint before. Raises ConfigError when there was none."""
        if self.canary is not None:
            return replace(self, canary=None, percent=0.0)
        if not self.history:
            raise ConfigError(f"model '{self.name}' has stood for {self.current.label} from the start: nothing to undo")
        return replace(self, current=self.history[-1], history=self.history[:-1])


def read_state(file: Path) -> dict[str, Served]:
    """The models of a state file by name; empty when there is none. Raises CheckpointError for one that cannot be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']}")
        return {entry["name"]: _parsed(entry) for entry in content["models"]}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file}: not a state file of serving ({error}); remove it to serve what the command line says"
        ) from error


def write_state(file: Path, models: Mapping[str, Served]) -> None:
    """Replace the file in one step."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    content = {"format": _FORMAT, "models": [asdict(served) for served in models.values()]}
    with aside.open("w", encoding="utf-8") as handle:
        json.dump(content, handle, indent=1)
        handle.flush()
        os.fsync(handle.fileno())
    aside.replace(file)


def resumed(fresh: Served, before: Served | None) -> tuple[Served, str | None]:
    """What a name stands for after a restart, and what a person should hear of it.

    What was promoted since is kept, unless the command line now names something else, or the folder is gone.
    """
    from rlft_core.checkpoints.folder import is_complete  # brings torch, which the registry does without

    if before is None or before.origin != fresh.origin:
        return fresh, None
    if before.current.base != fresh.current.base:
        told = (
            f"{before.current.label}, promoted before, was another form of its weights: {fresh.current.label} is served"
        )
        return fresh, told if before.current.label != fresh.current.label else None
    complete = is_complete(_home(before.current))
    if not complete:
        return (
            fresh,
            f"{before.current.label}, promoted before, is not complete any more: {fresh.current.label} is served",
        )
    canary = before.canary if before.canary is not None and is_complete(_home(before.canary)) else None
    kept = replace(before, canary=canary, percent=before.percent if canary else 0.0)
    if kept.current == fresh.current:
        return kept, None
    return kept, f"model '{kept.name}' stands for {kept.current.label}, which was promoted; rlft rollback undoes it"


def _home(checkpoint: Checkpoint) -> Path:
    """The folder with the manifest: an adapter may lie in that of the model into which it was merged."""
    folder = Path(checkpoint.folder)
    return folder.parent if checkpoint.base and not (folder / "manifest.json").is_file() else folder


def _parsed(entry: dict[str, object]) -> Served:
    history, canary = entry["history"], entry["canary"]
    assert isinstance(history, list)
    return Served(
        name=str(entry["name"]),
        origin=str(entry["origin"]),
        current=Checkpoint.parse(_mapping(entry["current"])),
        history=tuple(Checkpoint.parse(_mapping(one)) for one in history),
        canary=None if canary is None else Checkpoint.parse(_mapping(canary)),
        percent=float(str(entry["percent"])),
    )


def _mapping(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.40} is no checkpoint")
    return value
