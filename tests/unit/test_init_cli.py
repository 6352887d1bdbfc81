"""`rlft init`: what it writes and says, and what it refuses to overwrite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlft_core.config import load_recipe
from rlft_core.data import load_rows
from services.cli.main import app


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with sixty rows."""
    monkeypatch.chdir(tmp_path)
    rows = [{"article": f"the long story of number {k} and more", "title": f"story {k}"} for k in range(60)]
    Path("news.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["init", "--model", "org/name", *arguments])


def test_a_recipe_is_written_and_what_to_do_next_is_said(here: Path) -> None:
    result = call("news.jsonl")
    assert result.exit_code == 0, result.output
    recipe = load_recipe(Path("news.yaml"))
    assert (recipe.name, recipe.data.input_field, recipe.data.output_field) == ("news", "article", "title")
    assert [stage.type for stage in recipe.stages] == ["sft", "reward_model", "ppo", "evaluate"]
    assert "chosen by its name; --input FIELD takes another" in result.stdout
    lines = [line.split("#")[0].strip() for line in result.stdout.splitlines()[-3:]]
    assert lines == ["rlft check news.yaml", "rlft negatives news.yaml", "rlft run news.yaml"]
    assert sorted(path.name for path in here.iterdir()) == ["news.jsonl", "news.yaml"]


def test_a_model_folder_is_measured(here: Path, tiny_folder: Path) -> None:
    result = call("news.jsonl", "--model", str(tiny_folder), "--instruction", "Be brief.", "--name", "brief")
    assert result.exit_code == 0, result.output
    recipe = load_recipe(Path("news.yaml"))
    assert (recipe.name, recipe.data.prompt.system, recipe.data.too_long) == ("brief", "Be brief.", "error")
    checked = CliRunner().invoke(app, ["check", "news.yaml"])
    assert checked.exit_code == 0, checked.output


def test_nothing_is_overwritten_without_force(here: Path) -> None:
    Path("news.yaml").write_text("mine")
    refused = call("news.jsonl")
    assert (refused.exit_code, Path("news.yaml").read_text()) == (2, "mine")
    assert "news.yaml is there already; give another --out FILE, or --force" in refused.stderr
    assert call("news.jsonl", "--force").exit_code == 0
    assert load_recipe(Path("news.yaml")).name == "news"


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--out", "."), "is a folder; give a file"),
        (("--out", "deeper/my.yaml"), "there is no folder deeper"),
        (("--out", "news.jsonl", "--force"), "is the data file itself"),
        (("--output", "titel"), "Did you mean 'title'?"),
        (("--name", "a/b"), "it becomes a folder"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    here: Path, arguments: tuple[str, ...], said: str
) -> None:
    before = Path("news.jsonl").read_text()
    result = call("news.jsonl", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert (Path("news.jsonl").read_text(), list(here.glob("*.yaml"))) == (before, [])


def test_usable_rows_are_written_beside_the_recipe(here: Path) -> None:
    with Path("news.jsonl").open("a") as file:
        file.write('{"article": "something", "title": ""}\n')
    result = call("news.jsonl")
    assert result.exit_code == 0, result.output
    assert "1 of 61 rows cannot be used (line 61: 'title' is blank)" in result.stdout
    assert load_recipe(Path("news.yaml")).data.train == "news.rows.jsonl"
    assert len(load_rows("news.rows.jsonl", input_field="article", output_field="title")) == 60


def test_the_usable_rows_never_replace_the_data_file(here: Path) -> None:
    Path("my.rows.jsonl").write_text(Path("news.jsonl").read_text() + '{"article": "something"}\n')
    before = Path("my.rows.jsonl").read_text()
    result = call("my.rows.jsonl", "--out", "my.yaml", "--force")
    assert (result.exit_code, Path("my.rows.jsonl").read_text()) == (2, before)
    assert "is there already; give another --out FILE" in result.stderr
    assert not Path("my.yaml").exists()


def test_files_that_say_little_are_named_after_their_folder(here: Path) -> None:
    Path("stories").mkdir()
    Path("news.jsonl").rename("stories/train.jsonl")
    assert call("stories/train.jsonl").exit_code == 0
    assert load_recipe(Path("train.yaml")).name == "stories"


def test_data_of_a_hub_are_refused_with_a_way_out(here: Path) -> None:
    result = call("hf:org/name")
    assert result.exit_code == 2
    assert "rlft init looks at files" in result.stderr
