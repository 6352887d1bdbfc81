"""A cached folder is complete or not there, whatever happens to the process that builds it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlft_core.errors import DeadlineError, ModelError
from rlft_core.models.cache import MANIFEST, build_once, cache_root, is_complete

SOURCE = {"sha256": "abc"}


class Builder:
    """Writes two files and counts how often it was asked to."""

    def __init__(self, *, text: str = "weights", error: BaseException | None = None) -> None:
        self.text, self.error, self.calls = text, error, 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        assert list(folder.iterdir()) == []
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text(self.text)
        (folder / "sub" / "a").chmod(0o600)
        if self.error is not None:
            raise self.error
        (folder / "b").write_text("config")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_builds_once_with_manifest_and_open_modes(tmp_path: Path) -> None:
    build = Builder()
    folder = tmp_path / "deep" / "model"
    assert build_once(folder, build, source=SOURCE) == folder
    assert build_once(folder, build, source=SOURCE) == folder
    assert build.calls == 1
    assert names(folder) == {"sub", "b", MANIFEST}
    assert (folder / "sub" / "a").stat().st_mode & 0o777 == 0o644
    assert json.loads((folder / MANIFEST).read_text()) == {"source": SOURCE, "files_bytes": {"b": 6, "sub/a": 7}}
    assert names(folder.parent) == {"model", ".model.lock"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken"), OSError(errno.EIO, "bad disk")])
def test_interrupted_build_leaves_nothing_behind(error: BaseException, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(type(error)):
        build_once(folder, Builder(error=error), source=SOURCE)
    assert not folder.exists()
    assert names(tmp_path) == {".model.lock"}
    build_once(folder, Builder(), source=SOURCE)
    assert is_complete(folder, source=SOURCE)


def test_killed_build_is_done_again(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    program = (
        "import os; from pathlib import Path; from rlft_core.models.cache import build_once\n"
        "def build(f):\n (f / 'b').write_text('half'); os.kill(os.getpid(), 9)\n"
        f"build_once(Path({str(folder)!r}), build, source={SOURCE!r})"
    )
    finished = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], check=False)
    assert finished.returncode == -9
    assert not folder.exists()
    assert len(names(tmp_path)) == 2  # the lock file, free again, and the half-built folder
    build_once(folder, Builder(), source=SOURCE)
    assert (folder / "b").read_text() == "config"
    assert names(tmp_path) == {"model", ".model.lock"}


def test_manifest_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended between the renaming and the manifest: the folder is there but nobody believes it."""
    folder = tmp_path / "model"
    real, seen = os.replace, []

    def replace(source: Path, target: Path) -> None:
        seen.append(Path(target).name)
        if Path(target).name == MANIFEST:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        build_once(folder, Builder(), source=SOURCE)
    assert seen == ["model", MANIFEST]
    assert folder.exists()
    assert not is_complete(folder, source=SOURCE)
    monkeypatch.undo()
    again = Builder(text="new")
    build_once(folder, again, source=SOURCE)
    assert again.calls == 1
    assert (folder / "sub" / "a").read_text() == "new"


@pytest.mark.parametrize(
    "damage", ["truncated", "missing file", "broken manifest", "manifest is a list", "other source"]
)
def test_damage_is_found_and_mended(damage: str, tmp_path: Path) -> None:
    folder = build_once(tmp_path / "model", Builder(), source=SOURCE)
    if damage == "truncated":
        (folder / "sub" / "a").write_text("wei")
    elif damage == "missing file":
        (folder / "b").unlink()
    elif damage == "other source":
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps(manifest | {"source": {"sha256": "older"}}))
    else:
        (folder / MANIFEST).write_text("{" if damage == "broken manifest" else "[1]")
    assert not is_complete(folder, source=SOURCE)
    build = Builder()
    build_once(folder, build, source=SOURCE)
    assert build.calls == 1
    assert is_complete(folder, source=SOURCE)


def test_two_processes_build_it_once(tmp_path: Path) -> None:
    program = (
        "import time, os; from pathlib import Path; from rlft_core.models.cache import build_once\n"
        f"here = Path({str(tmp_path)!r})\n"
        "def build(f):\n"
        " (here / f'built-{os.getpid()}').touch(); (f / 'b').write_text('config'); time.sleep(.5)\n"
        f"build_once(here / 'model', build, source={SOURCE!r}); print((here / 'model' / 'b').read_text())"
    )
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", program]
    both = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == ["config", "config"]
    assert len(list(tmp_path.glob("built-*"))) == 1


def test_waiting_for_the_lock_has_an_end(tmp_path: Path) -> None:
    with (tmp_path / ".model.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(DeadlineError, match=r"another process.*\.model\.lock"):
            build_once(tmp_path / "model", Builder(), source=SOURCE, timeout_s=0.2)


@pytest.mark.parametrize(
    "code, reason", [(errno.ENOSPC, "disk is full"), (errno.EACCES, "may not write"), (errno.EROFS, "may not write")]
)
def test_cache_that_cannot_be_written(code: int, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        build_once(tmp_path / "model", Builder(error=OSError(code, "no")), source=SOURCE)
    assert reason in str(caught.value)
    assert "RLFT_CACHE" in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(ModelError, match=r"a file is in the way.*RLFT_CACHE"):
        build_once(tmp_path / "cache" / "model", Builder(), source=SOURCE)


def test_too_little_disk_is_seen_before_building(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    build = Builder()
    with pytest.raises(ModelError, match=r"needs 300 MB in .*, and 5 MB are free.*RLFT_CACHE"):
        build_once(tmp_path / "model", build, source=SOURCE, required_bytes=300_000_000)
    assert build.calls == 0


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RLFT_CACHE", raising=False)
    assert cache_root() == tmp_path / "home" / ".cache" / "rlft"
    monkeypatch.setenv("RLFT_CACHE", "~/mine")
    assert cache_root() == tmp_path / "home" / "mine"
    assert cache_root(tmp_path) == tmp_path
