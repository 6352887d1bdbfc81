"""From a name in an address to a run's folder, and the small JSON files in it. Nothing outside the runs folder is reached."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlft_core.config.recipe import Recipe
from rlft_core.errors import UserError

RECIPE, STATUS, METRICS, SAMPLES, SUMMARY, REPORT = (
    "recipe.resolved.json",
    "status.json",
    "metrics.jsonl",
    "samples.jsonl",
    "summary.json",
    "report.html",
)
SET_ASIDE = re.compile(r"\.old-\d+$")  # folders of stages that were run again with other inputs
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_SIGNS = (RECIPE, STATUS, METRICS)


class NotThere(UserError):
    """What an address names does not exist."""


def run_folders(runs: Path) -> list[Path]:
    """All folders that a run has written to, by name. A link counts: whoever may write here put it here."""
    if not runs.is_dir():
        return []
    return sorted(
        path
        for path in runs.iterdir()
        if _NAME.fullmatch(path.name) and any((path / sign).is_file() for sign in _SIGNS)
    )


def run_folder(runs: Path, name: str) -> Path:
    """The folder of one run. A name is one part of a path and no more: '..', '/' and the like are refused."""
    if _NAME.fullmatch(name) is None:
        raise NotThere(f"{name[:60]!r} is no name of a run: a name has letters, digits, '.', '_' and '-'")
    folder = runs / name
    if not any((folder / sign).is_file() for sign in _SIGNS):
        raise NotThere(f"there is no run '{name}' in this runs folder")
    return folder


def stage_folders(folder: Path) -> list[Path]:
    """Folders of the stages that count, without those that were put aside."""
    stages = folder / "stages"
    if not stages.is_dir():
        return []
    return sorted(path for path in stages.iterdir() if path.is_dir() and not SET_ASIDE.search(path.name))


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty when it is missing or torn: whoever writes it will write it again."""
    try:
        return parsed(path.read_bytes()) or {}
    except OSError:
        return {}


def parsed(text: bytes) -> dict[str, Any] | None:
    """A JSON object; None for what is none. NaN and infinity, which JSON does not have, become null."""
    try:
        found = json.loads(text, parse_constant=lambda _: None)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def read_recipe(folder: Path) -> Recipe | None:
    """The recipe as this version understands it; None when there is none, or it was written by another version."""
    try:
        return Recipe.model_validate(read_object(folder / RECIPE))
    except ValidationError:
        return None


def age_key(path: Path) -> tuple[int, int, int]:
    """Changes whenever the file does: (inode, size, time); zeros when there is none."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_size, found.st_mtime_ns)
