"""`rlft compare` on runs that stand in files: which answers, which reference, what is refused, what a person reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlft_core.config.load import parse_recipe
from rlft_core.errors import ConfigError
from rlft_core.judging.protocol import Comparison, Verdict
from services.cli import compare as module
from services.cli.main import app


def both(a: float) -> tuple[float, float]:
    return a, 1.0 - a


class LongerWins:
    """A judge that counts letters, and prefers what stands first by a little."""

    num_truncated = 0

    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        self.seen = list(comparisons)
        gaps = [len(pair.a.text) - len(pair.b.text) for pair in comparisons]
        return [Verdict(both(0.9 if gap >= 0 else 0.3), both(0.9 if gap > 0 else 0.1)) for gap in gaps]


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> LongerWins:
    one = LongerWins()
    monkeypatch.setattr(module, "load_judge", lambda *_: one)
    return one


def write_run(base: Path, name: str, **systems: str) -> None:
    """A run whose systems answer row k with their text k times."""
    rows = [{"input": f"text {k}", "output": "gold" * 3, "extra": f"e{k}"} for k in range(6)]
    (base / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (base / "test.jsonl").write_text(
        "".join(json.dumps({**row, "input": f"t{k}"}) + "\n" for k, row in enumerate(rows))
    )
    content = {
        "data": {"train": "rows.jsonl", "test": "test.jsonl"},
        "stages": [{"type": "sft"}, {"type": "evaluate", "systems": {"mle": "sft"}}],
    }
    folder = base / "runs" / name / "stages" / "evaluate"
    folder.mkdir(parents=True)
    resolved = parse_recipe(content).model_dump(mode="json")
    (folder.parents[1] / "recipe.resolved.json").write_text(json.dumps(resolved))
    with (folder / "outputs.jsonl").open("w") as file:
        for k in range(6):
            outputs = {label: text * (k + 1) for label, text in systems.items()}
            metrics = {label: {"ended_by_eos": float(k > 0)} for label in systems}
            file.write(json.dumps({"id": f"test:{k + 1}", "outputs": outputs, "metrics": metrics}) + "\n")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path, "one", mle="xx", rl="xxx", **{"rl+post": "x"})
    write_run(tmp_path, "two", mle="xx", rl="xx")
    return tmp_path


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["compare", *arguments, "--judge", "some/judge"])


def test_the_newest_systems_are_compared_with_the_rows_own_outputs(base: Path, judge: LongerWins) -> None:
    told = call("one", "two", "--out", "found.json")
    assert told.exit_code == 0, told.output
    found = json.loads(Path("found.json").read_text())
    assert found["rows"] == 6
    one, two = found["systems"]["one:rl"], found["systems"]["two:rl"]
    assert (one["wins"], one["ties"], one["losses"]) == (2, 1, 3)  # 3, 6, 9, 12, 15, 18 letters against 12
    assert (two["wins"], two["ties"], two["losses"]) == (0, 1, 5)
    assert found["differences"]["two:rl - one:rl"]["mean"] == pytest.approx(1 / 12 - 2.5 / 6)
    assert "Win rate against the rows' own outputs, 6 rows" in told.output
    assert "one:rl" in told.output
    assert [pair.row.fields["extra"] for pair in judge.seen] == [f"e{k}" for k in range(6)]
    assert [pair.a.ended for pair in judge.seen] == [False] + [True] * 5


def test_comparisons_that_were_cut_are_told(base: Path, judge: LongerWins) -> None:
    judge.num_truncated = 2
    told = call("one", "two", "--out", "found.json")
    assert told.exit_code == 0, told.output
    assert "2 of 12 comparisons were too long for the judge" in told.output
    assert json.loads(Path("found.json").read_text())["truncated"] == 2


def test_a_system_may_be_the_reference(base: Path, judge: LongerWins) -> None:
    told = call("one", "two:mle", "--reference", "mle")
    assert "Win rate against one:mle" in told.output
    assert judge.seen[0].b.text == "xx"
    other = call("one:mle", "--reference", "two:rl")
    assert "Win rate against two:rl" in other.output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("one:best",), "the run has no system 'best'; it has mle, rl, rl+post"),
        (
            ("nowhere",),
            "runs/nowhere is no run's folder: it has no recipe.resolved.json; the runs in runs are: one, two",
        ),
        (("one", "--reference", "best"), "--reference best: choose from gold, mle, rl, rl+post"),
        (("one", "--stage", "other"), "has no stage of type evaluate called other"),
        (("one", "one"), "one: there is a one:rl already; name each once"),
    ],
)
def test_what_is_not_there_is_named(base: Path, judge: LongerWins, arguments: tuple[str, ...], message: str) -> None:
    told = call(*arguments)
    assert told.exit_code == 2
    assert message in " ".join(told.output.split())


def test_rows_that_are_no_longer_what_was_answered_are_named(base: Path, judge: LongerWins) -> None:
    path = base / "runs" / "one" / "stages" / "evaluate" / "outputs.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**line, "input": f"t{k}"}) + "\n" for k, line in enumerate(lines)))
    assert call("one").exit_code == 0
    rows = (base / "test.jsonl").read_text()
    (base / "test.jsonl").write_text(json.dumps({"input": "new", "output": "gold", "extra": "e"}) + "\n" + rows)
    told = " ".join(call("one").output.split())
    assert "row 'test:1' was another one when the run answered it: 't0', and now 'new'; bring the data back" in told


def test_runs_that_call_other_rows_by_the_same_id_are_not_compared(base: Path, judge: LongerWins) -> None:
    resolved = base / "runs" / "two" / "recipe.resolved.json"
    recipe = json.loads(resolved.read_text())
    recipe["data"]["test"] = "elsewhere/test.jsonl"
    resolved.write_text(json.dumps(recipe))
    (base / "elsewhere").mkdir()
    rows = (base / "test.jsonl").read_text()
    (base / "elsewhere" / "test.jsonl").write_text(rows.replace('"t3"', '"t8"'))
    told = " ".join(call("one", "two").output.split())
    assert "one and two call 1 different rows by the same id, 'test:4' among them" in told


def test_systems_must_have_answered_the_same_rows(base: Path, judge: LongerWins) -> None:
    path = base / "runs" / "two" / "stages" / "evaluate" / "outputs.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    told = call("one", "two")
    assert told.exit_code == 2
    assert "two:rl answered 4 rows and one:rl 6, 4 of them the same" in " ".join(told.output.split())


def test_a_judge_that_looks_at_the_place_is_told_of(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class First:
        num_truncated = 0

        def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
            return [Verdict((0.9, 0.1), (0.1, 0.9)) for _ in comparisons]

    monkeypatch.setattr(module, "load_judge", lambda *_: First())
    told = " ".join(call("one").output.split())
    assert "the judge gives whatever stands first 90 %" in told
    assert "0.0 %" in told  # orders never agree


def test_a_reward_model_is_not_asked_by_a_template(tmp_path: Path) -> None:
    (tmp_path / "rlft_reward.json").write_text("{}")
    with pytest.raises(ConfigError, match="is a reward model and is not asked by one"):
        module.load_judge(str(tmp_path), "better-answer")
