"""The HTML report: whole, with parts missing, with text that tries to be markup; and its charts and sentences."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rlft_core.errors import DataError
from services.observe import charts, wording
from services.observe.report import build_report, evaluation_of, evaluations_of, held_out_of
from services.observe.run_files import read_run

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Outline(HTMLParser):
    """Collects tags, ids and text, and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def _outline(path: Path) -> Outline:
    outline = Outline()
    outline.feed(path.read_text(encoding="utf-8"))
    assert outline.open == []
    outline.text = " ".join(outline.text.split())
    return outline


def test_a_whole_run_has_every_section(run_folder: Path) -> None:
    page = _outline(build_report(run_folder))
    assert page.ids == ["evaluation", "samples", "stage-1", "stage-2", "time", "configuration"]
    for words in (
        "Against MLE, RL is better on ROUGE-1 (+0.030), all rules passed (+9.4 points) and similarity to reference",
        "No clear difference in ROUGE-L, ROUGE-2, words per output, ended by EOS and repetition.",
        "Explained variance of the critic",
        "Reward by part",
        "Seconds per step",
        "DNA sequencing and copy number variant detection toolkit",
        "60.8 %",
    ):
        assert words in page.text
    assert "Left out" not in page.text


def test_the_page_needs_nothing_from_outside(run_folder: Path) -> None:
    html = build_report(run_folder).read_text(encoding="utf-8")
    page = _outline(run_folder / "report.html")
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?://|@import|url\(", html)


def test_text_of_users_and_models_stays_text(run_folder: Path, hostile: str) -> None:
    html = build_report(run_folder).read_text(encoding="utf-8")
    page = _outline(run_folder / "report.html")
    assert "<script" not in html
    assert "<b>bold" not in html
    assert page.text.count(hostile) >= 3
    assert html.count("</style>") == 1


def test_hostile_names_of_stages_metrics_and_systems_stay_text(tmp_path: Path, hostile: str) -> None:
    row = {
        "stage": hostile,
        "step": 0,
        "reward/mean": 1.0,
        f"reward/{hostile}": 1.0,
        f"time/{hostile}_s": 1.0,
        hostile: 2.0,
    }
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    estimate = {"mean": 1.0, "low": 0.5, "high": 1.5, "n": 2}
    summary = {"evaluation": {hostile: {hostile: estimate}}, "seconds": {hostile: 2.0}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    html = build_report(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in html
    assert html.count("</style>") == 1
    assert "<b>bold" not in html
    _outline(tmp_path / "report.html")


@pytest.mark.parametrize(
    ("removed", "lost"),
    [
        ("metrics.jsonl", {"stage-1", "stage-2"}),
        ("samples.jsonl", set()),
        ("summary.json", {"evaluation", "time"}),
        ("recipe.resolved.json", {"configuration"}),
        ("stages/evaluate/outputs.jsonl", {"samples"}),
    ],
)
def test_a_missing_file_leaves_its_section_out_and_is_named(run_folder: Path, removed: str, lost: set[str]) -> None:
    whole = set(_outline(build_report(run_folder)).ids)
    (run_folder / removed).unlink()
    page = _outline(build_report(run_folder))
    assert whole - set(page.ids) == lost
    assert f"Left out, because the run's folder does not have it: {removed.replace('evaluate', '*')}" in page.text


def test_an_empty_folder_still_makes_a_page(tmp_path: Path) -> None:
    page = _outline(build_report(tmp_path))
    assert page.ids == []
    assert page.text.count(": ") >= 5


def test_a_folder_that_is_not_there_and_a_damaged_summary_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no run folder"):
        build_report(tmp_path / "runs" / "typo")
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(DataError, match=r"summary\.json is not JSON"):
        build_report(tmp_path)


def test_a_running_run_with_one_step_and_nulls_has_curves(tmp_path: Path) -> None:
    rows = [{"stage": "ppo", "step": 0, "time": 1.0, "reward/mean": 0.5, "kl/mean": None, "time/update_s": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"stage": "pp')
    page = _outline(build_report(tmp_path))
    assert "before KL shaping" in page.text
    assert "KL to the reference" not in page.text


def test_a_step_written_twice_counts_as_written_last(tmp_path: Path) -> None:
    rows = [{"stage": "ppo", "step": step, "x": value} for step, value in ((0, 1.0), (1, 2.0), (1, 3.0))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_run(tmp_path).stages[0].points("x") == ([0, 1], [1.0, 3.0])


def test_samples_stand_in_for_a_breakdown_that_the_metrics_lack(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"stage": "ppo", "step": 0, "reward/mean": 0.5}\n')
    (tmp_path / "samples.jsonl").write_text('{"stage": "ppo", "step": 0, "breakdown": {"tone": 0.5}}\n')
    assert "Reward by part" in _outline(build_report(tmp_path)).text


def test_held_out_rows_are_spread_evenly() -> None:
    rows = [{"id": str(index), "outputs": {"rl": "x"}} for index in range(240)]
    assert [row.id for row in held_out_of(rows)] == [str(10 * index) for index in range(24)]
    assert [row.id for row in held_out_of(rows[:2])] == ["0", "1"]


def test_neighbouring_systems_are_compared_first_and_cards_are_of_the_newest() -> None:
    estimate = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    systems = {
        name: {"rougeL": estimate, "num_words": estimate, "rules/one_line": estimate} for name in ("base", "mle", "rl")
    }
    pairs = {name: {"rougeL": estimate} for name in ("mle-base", "rl-base", "rl-mle")}
    found = evaluation_of({"evaluation": systems, "differences": pairs})
    assert found is not None
    assert found.pairs == ("RL \u2212 MLE", "MLE \u2212 Base", "RL \u2212 Base")
    assert [(card.label, card.against, card.change) for card in found.cards] == [("ROUGE-L", "MLE", "+0.500")]
    assert [line.label for line in found.lines] == ["ROUGE-L", "Words per output"]
    assert [line.label for line in found.details] == ["Rule: one line"]


@pytest.mark.parametrize(
    ("metric", "low", "high", "told"),
    [
        ("rougeL", 0.01, 0.03, "better"),
        ("rougeL", -0.03, -0.01, "worse"),
        ("rougeL", -0.01, 0.03, "no clear difference"),
        ("rougeL", 0.0, 0.03, "no clear difference"),
        ("repetition_share", -0.03, -0.01, "better"),
        ("repetition_share", 0.01, 0.03, "worse"),
        ("num_words", 0.1, 0.2, "higher"),
        ("my_own", -0.2, -0.1, "lower"),
    ],
)
def test_verdicts(metric: str, low: float, high: float, told: str) -> None:
    assert wording.verdict(metric, {"mean": (low + high) / 2, "low": low, "high": high}) == told


def test_how_numbers_are_written() -> None:
    rules, rouge = wording.wording("rules/all"), wording.wording("rougeL")
    assert (rules.value(0.891), rules.change(-0.094)) == ("89.1 %", "\u22129.4 points")
    assert (rouge.value(0.3564), rouge.change(0.0204)) == ("0.356", "+0.020")
    assert [wording.compact(x) for x in (0.7381, 1240.0, 2.69e8, 2.87e-6, -0.5)] == [
        "0.738", "1,240", "269 M", "2.87e\u22126", "\u22120.5",
    ]  # fmt: skip
    assert [wording.duration(s) for s in (4.23, 61.0, 3725.4)] == ["4.2 s", "0:01:01", "1:02:05"]
    assert wording.split_pair("rl-big-mle", ["mle", "rl-big"]) == ("rl-big", "mle")


def test_ticks_are_round_and_enclose_the_values() -> None:
    assert charts.ticks(0.0, 1.0) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert charts.ticks(0.0123, 0.0456) == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])
    assert charts.ticks(0.0, 0.0)[0] == 0.0
    for low, high in ((-3.3, 7.1), (1e-9, 2e-9), (5.0, 5.0), (1e6, 3e6)):
        ticks = charts.ticks(low, high)
        assert ticks[0] <= low
        assert ticks[-1] >= high
        assert 2 <= len(ticks) <= 9


def test_smoothing_keeps_constants_and_straight_lines_and_does_not_shift() -> None:
    assert charts.smooth([2.0] * 30) == pytest.approx([2.0] * 30)
    line = [0.5 * index for index in range(40)]
    assert charts.smooth(line)[10:30] == pytest.approx(line[10:30])


def test_a_line_chart_draws_values_where_they_belong() -> None:
    series = charts.Series(name="r", steps=[0, 10], values=[0.0, 1.0])
    svg = charts.line_chart([series], label="reward")
    left, right = charts.LEFT, charts.WIDTH - charts.RIGHT
    bottom, top = charts.HEIGHT - charts.BOTTOM, charts.TOP
    assert f'points="{left:.1f},{bottom:.1f} {right:.1f},{top:.1f}"' in svg
    assert "<title>r, step 10: 1</title>" in svg


def test_many_steps_are_thinned_and_binned() -> None:
    steps = list(range(5000))
    values = [float(step % 7) for step in steps]
    line = charts.line_chart([charts.Series(name="r", steps=steps, values=values)], label="r")
    bars = charts.stacked_bars(steps, {"update": values}, label="s")
    assert len(line) < 60_000
    assert bars.count("<rect") <= 60


def test_two_evaluations_are_shown_apart_and_the_last_one_leads() -> None:
    def estimate(mean: float) -> dict[str, float]:
        return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 9}

    systems = {"mle_sampled": 0.2, "rl_sampled": 0.3, "mle": 0.4, "rl": 0.5}
    summary = {
        "evaluation": {system: {"rougeL": estimate(mean)} for system, mean in systems.items()},
        "differences": {
            "rl_sampled-mle_sampled": {"rougeL": estimate(0.1)},
            "rl-mle": {"rougeL": estimate(0.1)},
        },
        "stages": [
            {"name": "ppo", "type": "ppo", "done": True},
            {"name": "sampled", "type": "evaluate", "done": True, "systems": ["mle_sampled", "rl_sampled"]},
            {"name": "evaluate", "type": "evaluate", "done": True, "systems": ["mle", "rl"]},
        ],
    }
    found = evaluations_of(summary)
    assert list(found) == ["sampled", "evaluate"]
    assert found["evaluate"].systems == ("MLE", "RL")
    assert found["evaluate"].pairs == ("RL − MLE",)
    assert found["sampled"].systems == ("MLE sampled", "RL sampled")
    # A run from before stages said which systems are theirs.
    old = {**summary, "stages": summary["stages"][:1]}
    assert [evaluation.systems for evaluation in evaluations_of(old).values()] == [
        ("MLE sampled", "RL sampled", "MLE", "RL")
    ]
