"""A checkpoint is there completely or not at all, whatever happens while it is written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rlft_core.checkpoints import folder
from rlft_core.errors import CheckpointError, ResourceError


def tensors(value: float, size: int = 4) -> dict[str, dict[str, torch.Tensor]]:
    return {"policy": {"a": torch.full((size,), value), "b": torch.tensor([1, 2])}, "random": {"cpu": torch.zeros(3)}}


def save(root: Path, step: int, *, keep: int = 9, **keys: Any) -> Path:
    return folder.save(root, step, tensors=tensors(float(step), **keys), state={"step": step, "kl": 0.1}, keep=keep)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    value = {
        "policy": {"w": torch.randn(5, 3), "h": torch.randn(4).bfloat16()},
        "critic": {"v": torch.randn(2).double()},
    }
    path = folder.save(tmp_path / "new" / "root", 7, tensors=value, state={"step": 7, "list": [1, 2]}, keep=1)
    assert path.name == "step-000007"
    assert folder.step_of(path) == 7
    found, state = folder.load(path)
    assert state == {"step": 7, "list": [1, 2]}
    assert found.keys() == value.keys()
    for stem, named in value.items():
        assert found[stem].keys() == named.keys()
        assert all(torch.equal(found[stem][name], tensor) for name, tensor in named.items())


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 999_999, 1_000_000):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-1000000", "step-999999"]
    latest = folder.latest(tmp_path)
    assert latest is not None
    assert folder.step_of(latest) == 1_000_000
    assert folder.latest(tmp_path / "nothing") is None


def test_a_step_can_be_saved_again(tmp_path: Path) -> None:
    save(tmp_path, 3)
    folder.save(tmp_path, 3, tensors={"policy": {"a": torch.ones(1)}}, state={"again": True}, keep=2)
    found, state = folder.load(tmp_path / "step-000003")
    assert state == {"again": True}
    assert list(found) == ["policy"]


@pytest.mark.parametrize("damage", ["truncated", "missing file", "no manifest", "half a manifest"])
def test_a_damaged_checkpoint_does_not_count(damage: str, tmp_path: Path) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    weights, manifest = newest / "policy.safetensors", newest / "manifest.json"
    if damage == "truncated":
        os.truncate(weights, weights.stat().st_size - 1)
    elif damage == "missing file":
        weights.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        os.truncate(manifest, manifest.stat().st_size // 2)
    assert folder.latest(tmp_path) == tmp_path / "step-000001"
    with pytest.raises(CheckpointError, match=r"step-000002 is damaged: .* remove the folder"):
        folder.load(newest)


def test_a_damaged_checkpoint_pushes_out_no_good_one(tmp_path: Path) -> None:
    """A run that goes back behind a damaged checkpoint saves smaller steps than that one."""
    damaged = save(tmp_path, 20)
    (damaged / "manifest.json").unlink()
    save(tmp_path, 5, keep=1)
    latest = folder.latest(tmp_path)
    assert latest is not None
    assert latest.name == "step-000005"


class Stop(Exception):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("nth_file", [1, 2])
def test_a_killed_writer_leaves_the_last_checkpoint_and_no_other(
    nth_file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    written = 0
    real = folder.save_file

    def stops(*arguments: Any) -> None:
        nonlocal written
        written += 1
        if written == nth_file:
            raise Stop
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(folder, "save_file", stops)
        with pytest.raises(Stop):
            save(tmp_path, 2)
    assert folder.latest(tmp_path) == tmp_path / "step-000001"
    assert [path.name for path in folder.steps(tmp_path)] == ["step-000001"]
    save(tmp_path, 3)
    assert names(tmp_path) == ["step-000001", "step-000003"]  # what the killed one left is gone


def test_a_writer_killed_before_its_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def stops(_: Path) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(folder, "write_manifest", stops)
        with pytest.raises(Stop):
            save(tmp_path, 2)
    assert folder.latest(tmp_path) == tmp_path / "step-000001"
    # The same process id may write next, as it does in a container: nothing of the first attempt may remain in it.
    aside = tmp_path / f".writing-step-000002-{os.getpid()}"
    (aside / "odd.safetensors").write_bytes(b"left behind")
    assert json.loads((save(tmp_path, 2) / "manifest.json").read_text()).keys() == {
        "policy.safetensors",
        "random.safetensors",
        "state.json",
    }


def test_other_failures_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def fails(*_: Any) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(folder, "save_file", fails)
    with pytest.raises(OSError, match="the disk is broken"):
        save(tmp_path, 2)
    assert names(tmp_path) == ["step-000001"]


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of one MiB."""
    with tempfile.TemporaryDirectory() as place:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False
        )
        if mounted.returncode:
            pytest.skip("mounting a small disk needs root")
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True)


def full_disk_is_told(root: Path, size: int) -> None:
    save(root, 1)
    with pytest.raises(ResourceError, match=r"the disk is full while saving .*step-000002 .* lower checkpoint.keep"):
        save(root, 2, size=size)
    assert names(root) == ["step-000001"]
    assert folder.load(root / "step-000001")[0]["policy"]["a"].tolist() == [1.0] * 4


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    full_disk_is_told(small_disk, size=500_000)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = folder.save_file

    def fails(named: dict[str, torch.Tensor], file: Path) -> None:
        if any(t.numel() > 4 for t in named.values()):
            raise OSError(number, os.strerror(number))
        real(named, file)

    monkeypatch.setattr(folder, "save_file", fails)
    full_disk_is_told(tmp_path, size=5)
