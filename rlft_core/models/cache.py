"""Folders that are expensive to make and cheap to keep: made once, shared by every later run.

A cached folder is either complete or not there. It is built beside its final name, renamed, and its manifest is
written last, so a process that is killed at any moment leaves nothing that a later run would believe. Several
processes may ask for the same folder at once: one builds, the others wait for the lock and then find it done.

This file knows nothing about models, and it never fetches anything.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rlft_core.errors import DeadlineError, ModelError

MANIFEST = "rlft-manifest.json"
_LOCK_POLL_S = 0.1


def cache_root(cache_dir: Path | None = None) -> Path:
    """The folder that holds everything rlft caches: `cache_dir`, else `$RLFT_CACHE`, else `~/.cache/rlft`."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser().absolute()
    from_environment = os.environ.get("RLFT_CACHE", "").strip()
    root = Path(from_environment) if from_environment else Path("~/.cache/rlft")
    return root.expanduser().absolute()


def is_complete(folder: Path, *, source: Mapping[str, str]) -> bool:
    """True when `folder` was finished from this very `source` and every file still has the size it was made with."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["source"] != dict(source):
            return False
        return all((folder / name).stat().st_size == size for name, size in manifest["files_bytes"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def build_once(
    folder: Path,
    build: Callable[[Path], None],
    *,
    source: Mapping[str, str],
    required_bytes: int = 0,
    timeout_s: float = 600.0,
) -> Path:
    """Return `folder`, calling `build(empty_folder)` first if no complete copy of it exists.

    `source` identifies what it is made from (a digest, a format number); another source means building again.
    `required_bytes` of free disk are asked for before building. Files are made readable for everyone (0644): the
    writers of weight files leave them private to one user.

    Raises:
        ModelError: the cache cannot be written (rights, read-only, full disk).
        DeadlineError: another process held the lock for `timeout_s` seconds.
    """
    if is_complete(folder, source=source):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / f".{folder.name}.lock", timeout_s=timeout_s):
            if not is_complete(folder, source=source):
                _require_room(folder.parent, required_bytes)
                _build_aside(folder, build, source)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = "this user may not write there"
        elif error.errno in (errno.ENOTDIR, errno.EEXIST):
            reason = "a file is in the way"
        else:
            raise
        raise ModelError(
            f"Cannot write the model cache {folder}: {reason} ({error.strerror}). "
            "Make room or set RLFT_CACHE to a folder you can write to."
        ) from error
    return folder


def _require_room(folder: Path, required_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < required_bytes:
        raise ModelError(
            f"The model cache needs {required_bytes / 1e6:.0f} MB in {folder}, and {free_bytes / 1e6:.0f} MB are free. "
            "Make room or set RLFT_CACHE to a folder on another disk."
        )


def _build_aside(folder: Path, build: Callable[[Path], None], source: Mapping[str, str]) -> None:
    """Build next to `folder`, put it in place, then vouch for it. The caller holds the lock."""
    prefix = f".{folder.name}.partial-"
    for leftover in folder.parent.glob(f"{prefix}*"):  # ours is the lock, so whoever made these is gone
        shutil.rmtree(leftover)
    aside = folder.parent / f"{prefix}{os.getpid()}"
    aside.mkdir()
    try:
        build(aside)
        files = sorted(path for path in aside.rglob("*") if path.is_file())
        for path in files:
            path.chmod(0o644)
            _sync_to_disk(path)
        if folder.exists():
            (folder / MANIFEST).unlink(missing_ok=True)  # from here on it is not complete, whatever happens
            shutil.rmtree(folder)
        os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    sizes = {str(path.relative_to(aside)): (folder / path.relative_to(aside)).stat().st_size for path in files}
    draft = folder / f".{MANIFEST}.draft"
    draft.write_text(json.dumps({"source": dict(source), "files_bytes": sizes}, indent=2) + "\n", encoding="utf-8")
    draft.chmod(0o644)
    _sync_to_disk(draft)
    os.replace(draft, folder / MANIFEST)


@contextmanager
def _locked(path: Path, *, timeout_s: float) -> Iterator[None]:
    """Hold an exclusive lock on `path`. The kernel frees it when the process ends, however it ends."""
    deadline = time.monotonic() + timeout_s
    with path.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise DeadlineError(
                        f"Waited {timeout_s:.0f} s for another process to finish building the model cache "
                        f"(lock {path}). If no other run is converting a model, end the process that holds it."
                    ) from None
                time.sleep(_LOCK_POLL_S)
        yield


def _sync_to_disk(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
