"""Samples found by step and by row, in files that grow; verdicts in words; long texts cut."""

from __future__ import annotations

import json
from pathlib import Path

from services.viewer.sample_views import MOST_TOKENS, prompt_view, sample_view
from services.viewer.samples import SampleIndex, SampleStore, evaluated_row, watched_rows
from tests.unit.viewer.made import policy_run, sample, write_lines


def index_of(folder: Path) -> SampleIndex:
    return SampleStore().index(folder)


def test_samples_of_a_step_by_row(tmp_path: Path) -> None:
    index = index_of(policy_run(tmp_path, "alpha"))
    assert index.stages == ("ppo",)
    assert index.steps("ppo") == [0, 10]
    found = index.at("ppo", 10)
    assert {row: [one["reward"] for one in rows] for row, rows in found.items()} == {
        "row-0": [-1.0, 0.0, 1.0],
        "row-1": [-0.5, 0.5, 1.5],
    }
    assert index.at("ppo", 5) == {}
    assert index.at("other", 0) == {}


def test_a_row_is_followed_over_the_steps(tmp_path: Path) -> None:
    index = index_of(policy_run(tmp_path, "alpha"))
    assert {step: len(rows) for step, rows in index.of_row("ppo", "row-1").items()} == {0: 3, 10: 3}
    assert index.row_ids("ppo") == ["row-0", "row-1"]


def test_new_samples_are_found_and_torn_ones_wait(tmp_path: Path) -> None:
    folder = policy_run(tmp_path, "alpha")
    store = SampleStore()
    index = store.index(folder)
    before = index.version
    line = json.dumps(sample(20, 0))
    with (folder / "samples.jsonl").open("a") as file:
        file.write(line)
    assert store.index(folder).steps("ppo") == [0, 10]
    with (folder / "samples.jsonl").open("a") as file:
        file.write("\nnonsense\n")
    assert store.index(folder) is index
    assert index.steps("ppo") == [0, 10, 20]
    assert index.num_damaged == 1
    assert index.version != before


def test_a_rewound_file_is_read_from_the_start(tmp_path: Path) -> None:
    folder = policy_run(tmp_path, "alpha")
    store = SampleStore()
    assert store.index(folder).steps("ppo") == [0, 10]
    write_lines(folder / "aside", [sample(0, 0)])
    (folder / "aside").replace(folder / "samples.jsonl")
    assert store.index(folder).steps("ppo") == [0]


def test_the_colour_scale_is_that_of_the_whole_stage(tmp_path: Path) -> None:
    index = index_of(policy_run(tmp_path, "alpha"))
    assert index.scale("ppo") == 1.5
    assert index.scale("sft") == 0.0


def test_the_scale_of_very_many_tokens_is_estimated_from_some(tmp_path: Path) -> None:
    tokens = [{"text": "t", "reward": k / 1000} for k in range(1000)]
    write_lines(tmp_path / "samples.jsonl", [{"stage": "s", "step": k, "id": "r", "tokens": tokens} for k in range(60)])
    assert round(index_of(tmp_path).scale("s"), 2) == 0.95


def test_samples_of_a_prompt_are_shown_best_first() -> None:
    view = prompt_view("row-1", [sample(0, 1), sample(0, 5), sample(0, 3)], 1.5)
    assert view.told == "3 samples, reward −0.50 to +1.50"
    assert [(one.place, one.reward) for one in view.samples] == [(1, "+1.50"), (2, "+0.50"), (3, "−0.50")]
    best = view.samples[0]
    assert best.remark == "cut off at the longest length"
    assert [(token.tone, token.strength, token.tip) for token in best.tokens] == [
        ("up", 1.0, "+1.50"),
        ("down", 1.0, "−1.50"),
    ]


def test_a_verdict_is_told_in_words() -> None:
    view = sample_view(sample(0, 4), 1, 1.0)
    (verdict,) = view.verdicts
    assert (verdict.judge, verdict.score) == ("judge", "won 50 % of its comparisons")
    assert (
        verdict.told
        == "asked in both orders, the judge said the same in 60 %; ties 10 %; gave 55 % to whatever stood first"
    )
    assert view.parts == (("Rules reward", "+1.00"),)


def test_a_grade_is_told_in_words() -> None:
    row = {
        **sample(0, 0),
        "breakdown": {"judge": 0.42, "judge/sure": 0.98, "judge/entropy": 1.0, "judge/truncated": 1.0},
    }
    (verdict,) = sample_view(row, 1, 1.0).verdicts
    assert (verdict.score, verdict.told) == (
        "graded 42 of 100",
        "98 % of the probability was on grades; the task was cut to fit",
    )


def test_a_very_long_text_is_cut_and_says_so() -> None:
    row = {**sample(0, 0), "tokens": [{"text": "a", "reward": 0.1}] * (MOST_TOKENS + 7)}
    view = sample_view(row, 1, 1.0)
    assert (len(view.tokens), view.num_hidden) == (MOST_TOKENS, 7)
    plain = sample_view({**sample(0, 0), "tokens": [], "output": "x" * 7000}, 1, 1.0)
    assert (len(plain.output), plain.num_hidden) == (6000, 1000)


def test_a_skipped_sample_says_why() -> None:
    view = sample_view({**sample(0, 0), "skipped": "empty output", "reward": None}, 1, 1.0)
    assert (view.remark, view.reward) == ("skipped: empty output", "none")


def test_watched_rows_and_evaluated_ones(tmp_path: Path) -> None:
    folder = policy_run(tmp_path, "alpha")
    (row,) = watched_rows(folder)["ppo"].values()
    assert [(look.step, look.reward) for look in row.looks] == [(0, 0.0), (10, 2.5), (20, 5.0)]
    found = evaluated_row(folder, "row-0")
    assert found is not None
    assert found["outputs"] == {"base": "b", "rl": "r"}
    assert evaluated_row(folder, "row-9") is None


def test_a_damaged_watch_is_read_up_to_the_damage(tmp_path: Path) -> None:
    folder = policy_run(tmp_path, "alpha")
    path = folder / "stages" / "ppo" / "watch-outputs.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "nonsense", lines[1]]) + "\n")
    assert [look.step for look in watched_rows(folder)["ppo"]["row-0"].looks] == [0]


def test_numbers_that_were_none_are_gone_without() -> None:
    row = {**sample(0, 0), "tokens": [{"text": None, "reward": None, "parts": {"judge": None, "rules": 0.5}}]}
    (token,) = sample_view(row, 1, 1.0).tokens
    assert (token.text, token.tip) == ("▪", "in all +0.00, rules +0.50")
