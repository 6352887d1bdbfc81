"""The scripts in a real browser, under the page's own policy: they run, and what they prepare is there."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from services.keys import Keys
from services.viewer.app import create_app

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


@contextmanager
def served(runs: Path) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(runs, Keys()), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    end = time.monotonic() + 10
    while not server.started and time.monotonic() < end:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)


def page_after_scripts(address: str, profile: Path) -> tuple[str, str]:
    """The page as it is once its scripts ran, and what the browser complained of."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += ["--virtual-time-budget=4000", "--enable-logging=stderr", "--log-level=0", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def test_curves_can_be_asked_and_parts_renew_themselves(runs: Path, tmp_path: Path) -> None:
    with served(runs) as address:
        page, complaints = page_after_scripts(f"{address}/runs/live", tmp_path / "profile")
    assert complaints == ""
    assert 'data-told="Reward, step 11: 1.1"' in page
    assert 'tabindex="0"' in page
    assert 'id="connection" class="chip worse" role="status" hidden=""' in page


def test_samples_run_under_the_policy(runs: Path, tmp_path: Path) -> None:
    with served(runs) as address:
        page, complaints = page_after_scripts(f"{address}/runs/alpha/samples", tmp_path / "profile")
    assert complaints == ""
    assert "data-slider" in page
