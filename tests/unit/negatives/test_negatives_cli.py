"""`rlft negatives`: what it shows, what it needs, and what it says when a recipe has no reward model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlft_core.negatives import write_samples
from rlft_core.types import Row
from services.cli.main import app
from services.cli.negatives import evenly

RECIPE = """
name: mine
model: {name: some/model}
data: {train: rows.jsonl}
stages:
  - type: reward_model
    negatives_per_row: 2
    negatives: [{kind: shuffled, share: 3}, {kind: typos}, {kind: model_samples}]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with rows and a recipe; the search path is put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    rows = [{"input": f"the input of {k}", "output": f"output number {k}"} for k in range(10)]
    rows[4]["output"] = "7"
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "my.yaml").write_text(RECIPE)
    return tmp_path


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["negatives", *arguments])


def lines(result: Any) -> list[str]:
    assert result.exit_code == 0, result.output
    return [" ".join(line.split()) for line in result.stdout.splitlines() if line.strip()]


def test_rows_are_shown_with_one_negative_of_every_kind(here: Path) -> None:
    result = call("my.yaml", "--show", "2")
    shown = lines(result)
    assert [line for line in shown if line.startswith("row ")] == ["row rows:1", "row rows:6"]
    assert "input the input of 0" in shown
    assert "reference output number 0" in shown
    assert sum(line.startswith("shuffled ") for line in shown) == 3  # two rows and the summary
    assert max(len(line) for line in result.stdout.splitlines() if "samples.jsonl" not in line) <= 100


def test_the_summary_counts_over_all_training_rows(here: Path) -> None:
    shown = lines(call("my.yaml", "--show", "0"))
    assert "kind share made skipped" in shown
    assert "shuffled 60% 9 1" in shown
    assert "typos 20% 9 1" in shown
    assert "model_samples 20% – –" in shown
    assert shown[-1] == (
        "18 negatives for 10 training rows, 2 asked for each. 1 of the rows would take no part, having none."
    )
    assert shown[0].startswith("model_samples: sampled by an engine while stage 'reward_model' runs")
    assert not (here / "runs").exists()


def test_a_row_that_allows_no_negative_of_a_kind_says_so(here: Path) -> None:
    shown = lines(
        call("my.yaml", "--show", "10", "--set", "stages.reward_model.negatives=[{kind: typos}, {kind: run_on}]")
    )
    assert "typos none for this row" in shown
    assert any(line.endswith("⋯ never ends") for line in shown)


def test_samples_of_the_model_are_shown_once_the_stage_has_made_them(here: Path) -> None:
    folder = here / "out" / "mine" / "stages" / "reward_model"
    folder.mkdir(parents=True)
    write_samples(folder / "samples.jsonl", {"rows:1": [("a sample\nof \x1b it", False)]})
    shown = lines(call("my.yaml", "--show", "1", "--runs-dir", "out"))
    assert "model_samples a sample ⏎ of · it ⋯ never ends" in shown
    assert not any("sampled by an engine" in line for line in shown)


def test_only_samples_of_the_model_leave_nothing_to_show(here: Path) -> None:
    shown = lines(call("my.yaml", "--set", "stages.reward_model.negatives=[{kind: model_samples}]"))
    assert len(shown) == 1


def test_the_tokenizer_is_loaded_when_a_kind_needs_it(here: Path, tiny_folder: Path) -> None:
    kinds = "stages.reward_model.negatives=[{kind: random_tokens}]"
    shown = lines(call("my.yaml", "--show", "1", "--set", kinds, "--set", f"model.name={tiny_folder}"))
    assert "random_tokens 100% 20 0" in shown
    result = call("my.yaml", "--set", kinds, "--set", "model.name=./nowhere")
    assert result.exit_code == 2
    assert "'./nowhere' does not exist" in result.stderr


@pytest.mark.parametrize(
    "stages, arguments, said",
    [
        ("[{type: sft}]", [], "recipe 'mine' has no stage of type reward_model"),
        (
            "[{type: reward_model}, {type: reward_model, name: second}]",
            [],
            "several reward models: reward_model, second. Choose one with --stage",
        ),
        ("[{type: reward_model}]", ["--stage", "ppo"], "--stage ppo: the recipe has no reward model of this name"),
    ],
)
def test_which_stage_is_meant_has_to_be_clear(here: Path, stages: str, arguments: list[str], said: str) -> None:
    (here / "my.yaml").write_text(f"name: mine\ndata: {{train: rows.jsonl}}\nstages: {stages}\n")
    result = call("my.yaml", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_one_of_several_stages_is_chosen_by_name(here: Path) -> None:
    stages = "[{type: reward_model}, {type: reward_model, name: second, negatives: [{kind: typos}]}]"
    (here / "my.yaml").write_text(f"name: mine\ndata: {{train: rows.jsonl}}\nstages: {stages}\n")
    assert any(line.startswith("typos 100%") for line in lines(call("my.yaml", "--stage", "second")))


def test_rows_too_few_for_a_kind_are_told(here: Path) -> None:
    (here / "rows.jsonl").write_text('{"input": "x", "output": "y"}\n')
    result = call("my.yaml", "--set", "stages.reward_model.negatives=[{kind: irrelevant}]")
    assert result.exit_code == 2
    assert "negatives 'irrelevant': takes from the outputs of other rows" in result.stderr


def test_shown_rows_are_spread_evenly() -> None:
    rows = [Row(str(index), "", "") for index in range(10)]
    assert [row.id for row in evenly(rows, 4)] == ["0", "2", "5", "7"]
    assert [row.id for row in evenly(rows[:2], 5)] == ["0", "1"]
    assert evenly(rows, 0) == evenly([], 3) == []


def with_edits(here: Path, edits: str) -> list[str]:
    head = "name: mine\nmodel: {name: some/model}\ndata: {train: rows.jsonl}\n"
    content = f"{head}stages:\n  - type: reward_model\n    edits: {edits}\n"
    (here / "edits.yaml").write_text(content)
    return lines(call("edits.yaml", "--show", "2"))


def test_edits_are_shown_too(here: Path) -> None:
    edits = [{"input": f"in {k}", "original": f"befor {k}", "edited": f"before {k}"} for k in range(4)]
    (here / "edits.jsonl").write_text("\n".join(json.dumps(edit) for edit in edits))
    shown = with_edits(here, "{source: file, train: edits.jsonl}")
    assert [line for line in shown if not line.startswith("input")] == [
        "original befor 0",
        "edited before 0",
        "original befor 2",
        "edited before 2",
        "4 edits of 4 texts.",
    ]
    damaged = with_edits(here, "{source: corrupted, per_row: 1}")
    assert any(line.startswith("dropped ") for line in damaged)
    (later,) = with_edits(here, "{source: editor}")
    assert "they will be in runs/mine/stages/reward_model/edits.jsonl" in later
