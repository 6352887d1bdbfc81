"""A runs folder with a finished run, one that builds on it, and one that works; and browsers on the viewer of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.keys import Keys
from services.viewer.app import create_app
from tests.unit.viewer.made import policy_run, working_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    policy_run(folder, "alpha")
    policy_run(folder, "beta", model="runs/alpha/stages/sft/model", seed=1)
    working_run(folder)
    (folder / "not-a-run").mkdir()
    return folder


@pytest.fixture
def browser(runs: Path) -> Iterator[TestClient]:
    """Somebody on this machine; no keys."""
    with TestClient(create_app(runs, Keys()), base_url="http://127.0.0.1:8266") as client:
        client.headers["accept"] = "text/html"
        yield client
