"""A folder of checkpoints `step-000010/`, each complete or absent.

    write into .writing-step-000010-<pid>/ ─▶ fsync ─▶ manifest.json last ─▶ rename ─▶ drop the oldest

A folder without its manifest, or whose files do not have the sizes written there, does not exist for readers. Contents
are safetensors and JSON; what they mean is the business of `rlft_core.checkpoints.state`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlft_core.errors import CheckpointError, ResourceError

MANIFEST = "manifest.json"
STATE = "state.json"


def save(
    root: Path, step: int, *, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], keep: int
) -> Path:
    """Write the checkpoint of `step` and keep the newest `keep`.

    `tensors` maps a file's stem to named tensors. Raises ResourceError when the disk is full: earlier checkpoints
    stay as they are.
    """
    final = path_of(root, step)
    aside = root / f".writing-{final.name}-{os.getpid()}"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for stem, named in tensors.items():
            save_file({name: t.detach().cpu().contiguous() for name, t in named.items()}, aside / f"{stem}.safetensors")
        (aside / STATE).write_text(json.dumps(state, indent=1))
        write_manifest(aside)
        if final.exists():
            shutil.rmtree(final)
        aside.rename(final)
        sync_folder(root)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise disk_error(error, final) from error
    prune(root, keep)
    return final


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """(tensors by file stem, state). Raises CheckpointError when the checkpoint is damaged."""
    if not is_complete(path):
        raise CheckpointError(
            f"checkpoint {path} is damaged: its files are not those of its manifest; remove the folder"
        )
    tensors = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
    return tensors, json.loads((path / STATE).read_text())


def latest(root: Path) -> Path | None:
    """The newest complete checkpoint, or None."""
    return next((path for path in reversed(steps(root)) if is_complete(path)), None)


def steps(root: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    return sorted((path for path in root.glob("step-[0-9]*") if path.is_dir()), key=step_of)


def path_of(root: Path, step: int) -> Path:
    """Folder of the checkpoint of a step, which may not be there."""
    return root / f"step-{step:06d}"


def step_of(path: Path) -> int:
    """Step number of a checkpoint folder."""
    return int(path.name.removeprefix("step-"))


def prune(root: Path, keep: int) -> None:
    """Remove all but the newest `keep` complete checkpoints, and what interrupted writers left behind.

    A damaged checkpoint counts for nothing: were it one of the newest, it would push out one that can be read.
    """
    kept = [path for path in steps(root) if is_complete(path)][-keep:]
    for path in (*steps(root), *root.glob(".writing-*")):
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def write_manifest(folder: Path) -> None:
    """Flush all files of a folder to disk, then write their sizes: the mark that it is complete."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    for file in files:
        _flush(file)
    manifest = {str(file.relative_to(folder)): file.stat().st_size for file in files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    _flush(folder / MANIFEST)
    sync_folder(folder)


def is_complete(folder: Path) -> bool:
    """Does every file of the manifest exist with its size?"""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, json.JSONDecodeError):
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in manifest.items())


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def disk_error(error: OSError | SafetensorError, target: Path) -> ResourceError | OSError | SafetensorError:
    """The error to raise when writing `target` failed: the same one, unless the disk is full."""
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    else:  # safetensors gives the number in its text only
        full = any(f"(os error {number})" in str(error) for number in (errno.ENOSPC, errno.EDQUOT))
    if not full:
        return error
    free = shutil.disk_usage(target.parent).free
    return ResourceError(
        f"the disk is full while saving {target} ({free / 2**20:.0f} MiB free); earlier checkpoints are intact. "
        "Free some space or lower checkpoint.keep, and run again: the run goes on from the last one"
    )


def _flush(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
