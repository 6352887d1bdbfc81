"""`rlft ui`: what it refuses, and that it serves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from typer.testing import CliRunner

from services.cli.main import app
from services.keys import new_key

ROOT = Path(__file__).resolve().parents[3]


def test_others_need_keys(runs: Path) -> None:
    result = CliRunner().invoke(app, ["ui", "--host", "0.0.0.0", "--runs-dir", str(runs)], env={"RLFT_API_KEYS": ""})
    assert result.exit_code == 2
    assert "without API keys the viewer listens on 127.0.0.1 only" in result.stderr


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["ui", "--runs-dir", str(tmp_path / "gone")], env={"RLFT_API_KEYS": ""})
    assert result.exit_code == 2
    assert "there is no such folder; start this where your runs are" in result.stderr


def test_keys_that_are_none(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("nonsense\n")
    result = CliRunner().invoke(app, ["ui", "--keys", str(tmp_path / "keys"), "--runs-dir", str(runs)])
    assert result.exit_code == 2
    assert "entry 1 is not NAME:SHA256" in result.stderr


def test_a_port_that_is_taken(runs: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(app, ["ui", "--port", port, "--runs-dir", str(runs)], env={"RLFT_API_KEYS": ""})
    assert result.exit_code == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --port" in result.stderr


def test_it_serves_until_it_is_interrupted(runs: Path, tmp_path: Path) -> None:
    secret, key = new_key("me")
    (tmp_path / "keys").write_text(key.entry + "\n")
    command = [sys.executable, "-m", "services.cli.main", "ui", "--port", "0", "--keys", str(tmp_path / "keys")]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*command, "--runs-dir", str(runs)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environ,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            address = line.split("shown at ")[1].split()[0]
            request = urllib.request.Request(f"{address}api/runs/alpha", headers={"Authorization": f"Bearer {secret}"})
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert b'"state":"done"' in answer.read()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 0
            assert process.stderr is not None
            assert process.stderr.read() == ""
        finally:
            process.kill()
