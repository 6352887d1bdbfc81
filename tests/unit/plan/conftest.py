"""A folder with rows and a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.plan.parts import write_model, write_rows


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_rows(tmp_path / "train.jsonl", 60)
    write_rows(tmp_path / "test.jsonl", 40, first=100)
    write_model(tmp_path / "model")
    return tmp_path
