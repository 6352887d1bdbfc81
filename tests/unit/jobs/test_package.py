"""What travels with a job, and what is refused before it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlft_core.config import Recipe, load_recipe
from rlft_core.errors import ConfigError
from services.jobs import package
from services.jobs.package import pack


def folder(base: Path, **changes: Any) -> tuple[Path, Recipe]:
    """A project as people have them, with much that must stay."""
    (base / "data").mkdir()
    (base / "data" / "rows.jsonl").write_text('{"input": "a", "output": "b"}\n')
    (base / "data" / "other.jsonl").write_text("not named\n")
    (base / "rewards").mkdir()
    (base / "rewards" / "mine.py").write_text("def reward(): ...\n")
    for left in (".venv/lib/x.py", "runs/old/report.py", "env/lib/y.py", "rewards/__pycache__/mine.py"):
        (base / left).parent.mkdir(parents=True, exist_ok=True)
        (base / left).write_text("")
    (base / "env" / "pyvenv.cfg").write_text("")
    content = {"name": "mine", "data": {"train": "data/rows.jsonl"}, "stages": [{"type": "sft"}]} | changes
    recipe = base / "mine.yaml"
    recipe.write_text(json.dumps(content))
    return recipe, load_recipe(recipe)


def test_the_recipe_its_files_and_modules_travel_and_nothing_else(tmp_path: Path) -> None:
    base, into = tmp_path / "base", tmp_path / "into"
    base.mkdir()
    into.mkdir()
    found = pack(*folder(base), base, into)
    assert found == ["data/rows.jsonl", "recipe.yaml", "rewards/mine.py"]
    assert sorted(str(p.relative_to(into)) for p in into.rglob("*") if p.is_file()) == found
    assert (into / "recipe.yaml").read_text() == (base / "mine.yaml").read_text()


def test_a_models_folder_of_this_machine_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "models" / "tuned"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"model\.name: models/tuned is a model's folder on this machine"):
        pack(*folder(tmp_path, model={"name": "models/tuned"}), tmp_path, tmp_path)


def test_data_outside_the_folder_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"data\.train: \.\./rows\.jsonl lies outside"):
        pack(*folder(base, data={"train": "../rows.jsonl"}), base, tmp_path / "into")


def test_absolute_paths_are_the_clusters_business(tmp_path: Path) -> None:
    base, into = tmp_path / "base", tmp_path / "into"
    base.mkdir()
    into.mkdir()
    found = pack(*folder(base, data={"train": str(base / "data" / "rows.jsonl")}), base, into)
    assert found == ["recipe.yaml", "rewards/mine.py"]


def test_too_much_is_refused_with_the_largest_file(tmp_path: Path) -> None:
    recipe, loaded = folder(tmp_path)
    with (tmp_path / "data" / "rows.jsonl").open("wb") as file:
        file.truncate(package.MOST_BYTES + (2 << 20))
    with pytest.raises(ConfigError, match=r"have 66 MiB, more than 64; the largest is data/rows\.jsonl.*absolute path"):
        pack(recipe, loaded, tmp_path, tmp_path / "into")
