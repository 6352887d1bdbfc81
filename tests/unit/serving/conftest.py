"""Run folders of tiny models for the tests of serving."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.serving_support import add_reward_model, make_run


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `first`, with a reward model, and `second`. Read only."""
    folder = tmp_path_factory.mktemp("served") / "runs"
    folder.mkdir()
    add_reward_model(make_run(folder, "first", seed=0))
    make_run(folder, "second", seed=1)
    return folder
