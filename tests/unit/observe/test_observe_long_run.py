"""Runs with more in them: post-processed systems, a reward model, a watched stage; in the report and on the terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from services.observe import charts, wording
from services.observe.report import build_report, evaluation_of, held_out_of
from services.observe.report_reward_model import findings_of
from services.observe.report_watch import watch_of
from services.observe.run_files import read_run
from services.observe.terminal import Terminal, difference_rows, reward_model_rows
from tests.unit.observe.long_run import FINDINGS, SYSTEMS, add_reward_model, add_systems, add_watch, estimate, looks

MINUS = "\u2212"


def page_of(folder: Path) -> str:
    return " ".join(build_report(folder).read_text(encoding="utf-8").split())


def summary_of(folder: Path) -> dict[str, Any]:
    add_systems(folder)
    loaded: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return loaded


def test_the_comparisons_that_say_most_come_first() -> None:
    assert wording.main_pairs(SYSTEMS) == [
        ("rl", "mle"),
        ("rl", "mle+post"),
        ("mle", "base"),
        ("rl+post", "mle+post"),
        ("rl+post", "rl"),
        ("mle+post", "mle"),
    ]
    assert wording.main_pairs(["base", "mle", "rl"]) == [("rl", "mle"), ("mle", "base")]
    assert wording.main_pairs(["a+post", "b"]) == [("b", "a+post")]  # only a name: there is no system "a"
    names = ["mle-base", "rl+post-base", "rl+post-mle+post", "rl-mle+post", "rl-mle", "rl-base"]
    assert list(wording.ordered_pairs(names, SYSTEMS)) == [
        "rl-mle",
        "rl-mle+post",
        "mle-base",
        "rl+post-mle+post",
        "rl-base",
        "rl+post-base",
    ]


@pytest.mark.parametrize(
    "name, label",
    [
        ("mle+post", "MLE + post"),
        ("base+post", "Base + post"),
        ("+post", "+post"),
        ("rl", "RL"),
        ("off_policy", "Off policy"),
    ],
)
def test_labels_of_systems(name: str, label: str) -> None:
    assert wording.system_label(name) == label


def test_pairs_of_post_processed_systems_are_split() -> None:
    assert wording.split_pair("rl+post-mle+post", SYSTEMS) == ("rl+post", "mle+post")
    assert wording.pair_label(("rl", "mle+post")) == f"RL {MINUS} MLE + post"


@pytest.mark.parametrize(
    "metric, told",
    [
        ("la_rougeL", "better"),
        ("bertscore", "better"),
        ("reward_model", "better"),
        ("length_penalty", "better"),
        ("unsupported_numbers", "worse"),
        ("unsupported_names", "worse"),
    ],
)
def test_directions_of_the_new_metrics(metric: str, told: str) -> None:
    assert wording.verdict(metric, {"mean": 0.2, "low": 0.1, "high": 0.3}) == told


def test_sentences_keep_names_and_leave_out_what_is_said_twice() -> None:
    up = {"mean": 0.2, "low": 0.1, "high": 0.3}
    same = {"mean": 0.2, "low": -0.1, "high": 0.3}
    metrics = {"bertscore": up, "rouge1": up, "la_rouge1": up, "similarity_to_reference": same}
    assert wording.comparison(("rl", "mle+post"), metrics) == (
        "Against MLE + post, RL is better on BERTScore F1 (+0.200) and ROUGE-1 (+0.200). "
        "No clear difference in similarity to reference."
    )
    told = wording.comparison(("rl+post", "rl"), {"rouge1": same})
    assert told == "Between RL and RL + post there is no clear difference."


def test_ten_pairs_are_six_and_a_fold(run_folder: Path) -> None:
    found = evaluation_of(summary_of(run_folder))
    assert found is not None
    assert found.newest == "RL"
    assert {card.against for card in found.cards} == {"MLE"}
    assert not any("Length-adjusted" in card.label for card in found.cards)
    assert (len(found.pairs), found.num_main, len(found.sentences)) == (10, 6, 6)
    assert found.pairs[:3] == (f"RL {MINUS} MLE", f"RL {MINUS} MLE + post", f"MLE {MINUS} Base")
    [rouge] = [line for line in found.lines if line.label == "ROUGE-1"]
    assert [cell.value for cell in rouge.differences[:3] if cell] == ["+0.029", "+0.016", "+0.162"]
    page = page_of(run_folder)
    assert "<summary>4 more comparisons</summary>" in page
    assert "<summary>3 more comparisons in words</summary>" in page


def test_an_output_that_post_processing_left_alone_is_shown_once(run_folder: Path) -> None:
    add_systems(run_folder)
    row = held_out_of(read_run(run_folder).outputs)[0]
    assert [output.unchanged for output in row.outputs] == [False, False, False, False, False, True]
    assert row.outputs[5].scores == ()
    assert row.outputs[3].scores != ()
    assert "Length-adjusted ROUGE-1" not in dict(row.outputs[3].scores)


def test_the_terminal_shows_the_main_comparisons_three_abreast(run_folder: Path) -> None:
    summary = summary_of(run_folder)
    rows = difference_rows(summary["evaluation"], summary["differences"])
    assert rows[0][1:4] == [f"RL {MINUS} MLE", f"RL {MINUS} MLE + post", f"MLE {MINUS} Base"]
    assert {len(row) for row in rows} == {7}
    stream = io.StringIO()
    Terminal(stream).evaluation(summary["evaluation"], summary["differences"])
    lines = stream.getvalue().splitlines()
    assert sum(line.split()[:1] == ["ROUGE-1"] for line in lines) == 3
    assert "More differences" in lines
    assert max(map(len, lines)) < 185


def test_a_reward_model_is_told_on_the_terminal() -> None:
    rows = reward_model_rows(FINDINGS)
    assert rows[1] == ["model samples", "71.0 % [65.0 – 77.0]", "+0.840", "128", "1,204", "0"]
    assert rows[3][2] == f"{MINUS}0.050"
    assert rows[-1][:2] == ["all, by row", "83.3 % [80.3 – 86.3]"]
    stream = io.StringIO()
    Terminal(stream).reward_model("rm\x1b[31m", {key: value for key, value in FINDINGS.items() if key != "pairs"})
    told = stream.getvalue()
    assert "\x1b" not in told
    assert "calibration error 0.042, Brier score 0.131; references have a mean reward of \u22120.020" in told


def test_a_reward_model_has_a_section(run_folder: Path) -> None:
    add_reward_model(run_folder)
    page = page_of(run_folder)
    assert '<section id="reward-model-1">' in page
    assert '<a href="#reward-model-1">Reward model: reward_model</a>' in page
    assert "Too long &lt;b&gt;" in page
    assert "gives 0.86, right 0.81 of the time, 77 pairs" in page
    found = findings_of("rm", FINDINGS)
    assert [line.label for line in found.lines] == [
        "Model samples", "Shuffled", "Truncated", "Too long <b>", "All, by row",
    ]  # fmt: skip
    assert (found.lines[0].accuracy, found.lines[0].gap, found.lines[0].num_made) == ("71.0 %", "+0.84", "1,204")
    assert (found.lines[3].accuracy, found.lines[3].num_skipped) == ("", "12")
    assert found.facts[-1] == ("Reward of references", f"{MINUS}0.02 ± 1.01")


def test_a_reward_model_without_counts_or_bins_still_has_its_table(run_folder: Path) -> None:
    bare = FINDINGS | {"calibration": {"ece": 0.0, "brier": 0.0, "bins": []}}
    found = findings_of("rm", {key: value for key, value in bare.items() if key != "pairs"})
    assert found.calibration is None
    assert len(found.lines) == 4
    assert read_run(run_folder).reward_models == {}  # the evaluation has a result.json of another kind


def test_the_calibration_chart_puts_dots_where_they_belong() -> None:
    svg = charts.calibration_chart([{"confidence": 0.75, "accuracy": 0.5, "n": 9}], label="c")
    middle = (charts.LEFT + charts.WIDTH - charts.RIGHT) / 2
    half = (charts.TOP + charts.HEIGHT - charts.BOTTOM) / 2
    assert f'cx="{middle:.1f}" cy="{half:.1f}" r="8.0"' in svg


def test_a_band_chart_draws_bounds_and_marks_alarms() -> None:
    series = charts.Series("r", [0, 10], [0.5, 0.5], low=[0.0, 0.0], high=[1.0, 1.0])
    svg = charts.band_chart(series, label="r", marked=[10])
    left, right, bottom, top = charts.LEFT, charts.WIDTH - charts.RIGHT, charts.HEIGHT - charts.BOTTOM, charts.TOP
    assert (
        f'points="{left:.1f},{top:.1f} {right:.1f},{top:.1f} {right:.1f},{bottom:.1f} {left:.1f},{bottom:.1f}"' in svg
    )
    assert (svg.count('class="dot marked"'), svg.count('class="dot c0"')) == (1, 1)


def test_a_watched_stage_shows_its_looks_and_alarms(run_folder: Path) -> None:
    add_watch(run_folder, looks())
    page = page_of(run_folder)
    assert "11 looks." in page
    assert "The best model was that of step 24." in page
    assert "<b>Step 36</b> rougeL fell by 0.048 &lt;i&gt;while&lt;/i&gt; the reward rose" in page
    assert page.index('id="stage-2"') < page.index("The watch: 64 validation rows") < page.index('id="time"')
    found = watch_of(looks())
    assert [figure.title for figure in found.figures] == [
        "Reward", "ROUGE-L", "Similarity to reference", "Repetition", "Words per output",
    ]  # fmt: skip
    assert [step for step, _ in found.alarms] == [36, 40]


def test_one_look_before_the_first_step_is_shown(tmp_path: Path) -> None:
    look = {"step": 0, "reward": -0.5, "metrics": {"rougeL": estimate(0.3, 0.1, 8)}, "alarms": [], "best": True}
    add_watch(tmp_path, [look | {"reward": 9.0}, look], stage="ppo")
    page = page_of(tmp_path)
    assert "1 look." in page
    assert "No alarm." in page
    assert f"{MINUS}0.500" in page
    assert read_run(tmp_path).watches["ppo"] == (look,)  # a step written twice counts as written last
