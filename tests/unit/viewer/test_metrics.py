"""Metrics that grow: read once, thinned, and survived when torn, damaged or rewound."""

from __future__ import annotations

import json
from pathlib import Path

from services.viewer.metrics import MetricsLog, MetricsStore
from tests.unit.viewer.made import write_lines


def rows(first: int, last: int, *, stage: str = "ppo") -> list[dict[str, object]]:
    return [{"stage": stage, "step": step, "time": 1.0, "reward/mean": float(step)} for step in range(first, last)]


def test_new_lines_are_read_and_old_ones_are_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, rows(0, 3))
    log = MetricsLog(path)
    log.refresh()
    before = log.version
    assert log.read("ppo").points("reward/mean") == ([0, 1, 2], [0.0, 1.0, 2.0])
    log.refresh()
    assert log.version == before
    with path.open("a") as file:
        file.write(json.dumps(rows(3, 4)[0]) + "\n")
    log.refresh()
    assert log.version != before
    assert log.read("ppo").points("reward/mean") == ([0, 1, 2, 3], [0.0, 1.0, 2.0, 3.0])
    assert log.last["step"] == 3


def test_a_line_that_is_still_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, rows(0, 2))
    whole = json.dumps(rows(2, 3)[0]) + "\n"
    with path.open("a") as file:
        file.write(whole[:20])
    log = MetricsLog(path)
    log.refresh()
    assert log.read("ppo").steps == (0, 1)
    with path.open("a") as file:
        file.write(whole[20:])
    log.refresh()
    assert log.read("ppo").steps == (0, 1, 2)
    assert log.num_damaged == 0


def test_damaged_lines_are_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"stage": "ppo", "step": 0, "reward/mean": 1}\nnonsense\n[1]\n{"stage": "ppo", "step": 1}\n')
    log = MetricsLog(path)
    log.refresh()
    assert log.num_damaged == 2
    assert log.read("ppo").steps == (0, 1)
    assert log.read("ppo").columns["reward/mean"] == (1.0, None)


def test_a_rewound_run_is_read_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, rows(0, 9))
    log = MetricsLog(path)
    log.refresh()
    aside = tmp_path / "aside"
    write_lines(aside, rows(0, 4))
    aside.replace(path)
    log.refresh()
    assert log.read("ppo").steps == (0, 1, 2, 3)


def test_a_step_that_was_written_twice_counts_as_written_last(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [*rows(0, 3), {"stage": "ppo", "step": 1, "reward/mean": 50.0}])
    log = MetricsLog(path)
    log.refresh()
    assert log.read("ppo").points("reward/mean") == ([0, 1, 2], [0.0, 50.0, 2.0])


def test_many_steps_leave_as_few_points(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, rows(0, 10))
    log = MetricsLog(path)
    log.refresh()
    found = log.read("ppo", most=4)
    assert found.steps == (0, 3, 6, 9)
    assert found.columns["reward/mean"] == (1.0, 4.0, 7.0, 9.0)
    assert log.read("ppo", ["kl/mean"]).columns == {}


def test_a_mean_leaves_out_the_steps_that_lack_the_metric(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [{"stage": "s", "step": k, **({"a": 6.0} if k == 1 else {})} for k in range(4)])
    log = MetricsLog(path)
    log.refresh()
    assert log.read("s", most=2).columns["a"] == (6.0, None)


def test_no_file_is_no_metrics(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.refresh()
    assert log.stages == ()
    assert log.read("ppo").steps == ()
    assert MetricsStore().spark(tmp_path / "metrics.jsonl").values == ()


def test_the_headline_is_that_of_the_newest_stage_that_has_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [{"stage": "sft", "step": 0, "loss/mean": 3.0}, *rows(0, 3), {"stage": "evaluate", "step": 0}])
    spark = MetricsStore().spark(path)
    assert (spark.label, spark.values, spark.last["stage"]) == ("reward", (0.0, 1.0, 2.0), "evaluate")


def test_a_large_file_is_looked_into_here_and_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [{**row, "filler": "x" * 900} for row in rows(0, 3000)])
    with path.open("a") as file:
        file.write('{"stage": "ppo", "st')  # torn
    spark = MetricsStore().spark(path)
    assert 60 <= len(spark.values) <= 90
    assert spark.values[0] == 0.0
    assert spark.values[-1] == 2999.0
    assert list(spark.values) == sorted(spark.values)


def test_runs_that_nobody_looks_at_are_forgotten(tmp_path: Path) -> None:
    store = MetricsStore()
    write_lines(tmp_path / "0.jsonl", rows(0, 2))
    first = store.log(tmp_path / "0.jsonl")
    assert store.log(tmp_path / "0.jsonl") is first
    for k in range(1, 20):
        store.log(tmp_path / f"{k}.jsonl")
    assert store.log(tmp_path / "0.jsonl") is not first


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"stage": "s", "step": 0, "reward/mean": NaN}\n{"stage": "s", "step": 1, "reward/mean": 2.0}\n')
    log = MetricsLog(path)
    log.refresh()
    assert log.read("s").points("reward/mean") == ([1], [2.0])
    assert MetricsStore().spark(path).values == (2.0,)
