"""Token rewards as a person sees them: colours by size and sign, edits side by side, in the page and on the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from rlft_core.models.loading import load_tokenizer
from rlft_core.types import Completion, Prompt, RolloutGroup, Row, Score, ScoredGroup
from services.cli.main import app
from services.cli.show import coloured
from services.observe.report import build_report
from services.observe.report_tokens import edits_of, heat, scale_of
from services.observe.samples import sample_records

WORSE = [
    {"text": "a", "reward": 0.1, "touched": False},
    {"text": " <b>bad", "reward": -2.0, "touched": True},
    {"text": "", "reward": 0.0, "touched": False},
]
BETTER = [{"text": "a", "reward": 0.1, "touched": False}, {"text": " good", "reward": 1.0, "touched": True}]
EDIT = {"kind": "typos", "prompt": "reads files", "worse": WORSE, "better": BETTER}
SAMPLE = {
    "stage": "ppo",
    "step": 4,
    "id": "row-1",
    "prompt": "reads files",
    "output": "a tool",
    "reference": "a file tool",
    "reward": -1.5,
    "breakdown": {"tokens": -0.75},
    "finish_reason": "stop",
    "tokens": [
        {"text": "a", "reward": 0.5, "parts": {"tokens": 0.5}},
        {"text": " tool", "reward": -2.0, "parts": {"tokens": -1.0, "places": -2.0}},
    ],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with token rewards of a reward model and of one sampled step."""
    folder = tmp_path / "run"
    (folder / "stages" / "rm").mkdir(parents=True)
    (folder / "stages" / "rm" / "tokens.jsonl").write_text(json.dumps(EDIT) + "\n")
    pairs = {"mean": 0.9, "low": 0.8, "high": 1.0, "n": 10}
    touched = {"auc": 0.91, "average_precision": 0.5, "share": 0.1, "by_text": pairs, "kinds": {}}
    result = {
        "kinds": {"typos": {"accuracy": pairs, "gap": 1.0}},
        "overall": pairs,
        "calibration": {"ece": 0.1, "brier": 0.1, "bins": []},
        "positives": {"mean": 0.0, "std": 1.0},
        "localisation": {"worse": touched, "better": None},
    }
    (folder / "stages" / "rm" / "result.json").write_text(json.dumps(result))
    earlier = {**SAMPLE, "step": 0, "output": "long ago"}
    (folder / "samples.jsonl").write_text(json.dumps(earlier) + "\n" + json.dumps(SAMPLE) + "\n")
    metrics = [{"stage": "ppo", "step": step, "time": 0.0, "loss/mean": 1.0} for step in range(5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    return folder


def test_colours_follow_size_and_sign() -> None:
    (edit,) = edits_of([EDIT])
    assert [(t.text, t.tone, t.touched) for t in edit.worse] == [
        ("a", "up", False),
        (" <b>bad", "down", True),
        ("▪", "", False),
    ]
    assert [t.strength for t in edit.worse] == [0.05, 1.0, 0.0]
    assert edit.better[1].strength == 0.5
    assert edit.worse[1].tip == "−2.00, edited"
    assert scale_of([]) == 0.0
    assert heat([{"text": "a", "reward": 0.0}], 0.0)[0].strength == 0.0
    signs = heat([{"text": "", "reward": 0.0}, {"text": "é", "reward": 0.0}, {"text": "", "reward": 0.0}], 1.0)
    assert [token.text for token in signs] == ["·", "é", "▪"]


def test_one_outlier_does_not_pale_the_others() -> None:
    assert scale_of([{"reward": 1.0}] * 40 + [{"reward": -500.0}]) == 1.0


def test_the_parts_are_told() -> None:
    tokens = heat(SAMPLE["tokens"], 2.0)  # type: ignore[arg-type]
    assert tokens[1].tip == "in all −2.00, tokens −1.00, places −2.00"


def test_the_page_has_coloured_tokens_and_escapes_them(run: Path) -> None:
    page = build_report(run).read_text()
    assert "Token by token" in page
    assert "&lt;b&gt;bad" in page
    assert "<b>bad" not in page
    assert 'class="tok down touched" style="--h:1.0" data-tip="−2.00, edited"' in page
    assert "AUC 0.910" in page
    assert "in all −2.00" in page


def test_the_terminal_shows_the_same(run: Path) -> None:
    told = CliRunner().invoke(app, ["show", "tokens", str(run)])
    assert told.exit_code == 0
    assert "original  a <b>bad⟨−2.00⟩" in told.output
    assert "output    a tool⟨−2.00⟩" in told.output
    assert "ppo, step 4, reward -1.50: reads files" in told.output
    assert "long ago" not in told.output
    other = CliRunner().invoke(app, ["show", "tokens", str(run), "--stage", "rm"])
    assert "output" not in other.output


def test_a_run_without_token_rewards_says_why(run: Path) -> None:
    refused = CliRunner().invoke(app, ["show", "tokens", str(run), "--stage", "sft"])
    assert refused.exit_code == 2
    assert "stages that have: rm, ppo" in refused.output
    (run / "samples.jsonl").unlink()
    (run / "stages" / "rm" / "tokens.jsonl").unlink()
    assert (
        "no stage of type reward_model has level: token" in CliRunner().invoke(app, ["show", "tokens", str(run)]).output
    )


def test_colours_on_a_terminal() -> None:
    console = Console(force_terminal=True, color_system="truecolor", width=80)
    with console.capture() as captured:
        console.print(coloured(heat(WORSE, 2.0), colour=True))
    shown = captured.get()
    assert "48;2;190;48;40" in shown  # a full red behind the wrong word
    assert "⟨" not in shown


def test_a_sample_says_what_each_token_earned(tiny_folder: Path) -> None:
    tokenizer: Any = load_tokenizer(tiny_folder)
    ids = np.array([*tokenizer.encode("a tool", add_special_tokens=False), tokenizer.eos_token_id], np.int32)
    zeros = np.zeros(len(ids), np.float32)
    completion = Completion(ids, zeros, zeros.astype(np.int32), "stop", "a tool")
    values = np.arange(len(ids), dtype=np.float32)
    group = RolloutGroup(Prompt(Row("r", "in", "out"), (1,), 1, 0), (completion,))
    dense = ScoredGroup(group, (Score(2 * values, {"m": 1.0}, dense={"m": values}),))
    (record,) = sample_records(dense, tokenizer=tokenizer)
    assert "".join(token.text for token in record.tokens) == "a tool"
    assert [token.reward for token in record.tokens] == (2 * values).tolist()
    assert [token.parts["m"] for token in record.tokens] == values.tolist()
    assert sample_records(dense)[0].tokens == ()
    plain = ScoredGroup(group, (Score(values, {"m": 1.0}),))
    assert sample_records(plain, tokenizer=tokenizer)[0].tokens == ()
