"""Run folders of tiny models for the tests of serving."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlft_core.models.tiny import make_tiny_model
from tests.integration.serving_support import MAX_LENGTH, add_reward_model, make_adapter_run, make_run


@pytest.fixture(scope="session")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `first`, with a reward model, and `second`; `low` and `high` are adapters of ranks 4 and 12 of one base. Read only."""
    folder = tmp_path_factory.mktemp("served") / "runs"
    folder.mkdir()
    add_reward_model(make_run(folder, "first", seed=0))
    make_run(folder, "second", seed=1)
    base = make_tiny_model(folder.parent / "base", seed=7, context=MAX_LENGTH, dtype=torch.bfloat16)
    make_adapter_run(folder, "low", base, seed=1)
    make_adapter_run(folder, "high", base, seed=2, rank=12)
    return folder
