"""The metrics table against what the code writes, the exported names, and the committed dashboard."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from services.observe.dashboard import dashboard, exported_names, queries, text
from services.observe.metric_table import LABELS, OTHER, TABLE, Metric, find
from services.observe.ray_metrics import RayMetrics
from services.observe.sinks import RunInfo

ROOT = Path(__file__).resolve().parents[3]
GROUPS = ("reward", "kl", "policy", "critic", "loss", "pairs", "tokens", "engines", "sync", "time")
#: Written in the same way, but not as numbers of a step.
NOT_OF_A_STEP = {"reward/max", "reward/min", "reward/std"}


def test_a_path_finds_its_line_and_its_labels() -> None:
    def found(path: str) -> list[tuple[str, dict[str, str]]]:
        return [(metric.exported, dict(labels)) for metric, labels in find(path)]

    assert found("reward/mean") == [("ray_rlft_reward_mean", {})]
    assert found("reward/length") == [("ray_rlft_reward", {"reward": "length"})]
    assert found("reward/my judge/agreement") == [("ray_rlft_reward_agreement", {"reward": "my judge"})]
    assert found("reward/rules/no_final_period") == [
        ("ray_rlft_reward_part", {"reward": "rules", "part": "no_final_period"})
    ]
    assert found("time/generate_s") == [("ray_rlft_phase_seconds", {"phase": "generate"})]
    assert found("time/learner_fetch_s") == [("ray_rlft_learner_seconds", {"phase": "fetch"})]
    assert found("tokens/generated") == [("ray_rlft_tokens_generated_total", {})]
    assert found("time/step_s") == [("ray_rlft_last_step_seconds", {}), ("ray_rlft_step_seconds", {})]
    assert found("new/number") == [("ray_rlft_other", {"metric": "new/number"})]


def test_every_name_is_one_metric_of_one_kind_with_one_set_of_labels() -> None:
    names = [metric.name for metric in (*TABLE, OTHER)]
    assert len(names) == len(set(names))
    assert [name for name in names if not re.fullmatch(r"rlft_[a-z][a-z0-9_]*", name)] == []
    # Prometheus and Ray add these to every series, or to those of a histogram.
    kept = {"le", "job", "instance", "Component", "WorkerId", *LABELS}
    assert [metric.path for metric in TABLE if kept & set(metric.labels)] == []


def test_every_number_that_the_code_writes_has_a_line() -> None:
    literal = re.compile(r"\"((?:" + "|".join(GROUPS) + r")/[a-z_]+)\"")
    written = {
        name
        for file in sorted([*(ROOT / "rlft_core").rglob("*.py"), *(ROOT / "services").rglob("*.py")])
        for name in literal.findall(file.read_text(encoding="utf-8"))
    }
    assert {"reward/mean", "sync/probe", "pairs/gap", "tokens/trained"} <= written
    assert [name for name in sorted(written - NOT_OF_A_STEP) if find(name)[0][0] == OTHER] == []
    # Only a reward's own name may be caught by the line for rewards.
    assert [name for name in sorted(written - NOT_OF_A_STEP) if find(name)[0][0].name == "rlft_reward"] == []


def test_queries_of_each_kind() -> None:
    chosen = '{run=~"$run", stage=~"$stage"}'
    assert queries(Metric("reward/{reward}", "", "", named="reward")) == [
        (f"max by (run, stage, reward) (ray_rlft_reward{chosen})", "{{run}} {{stage}} {{reward}}")
    ]
    assert queries(Metric("a/b", "", "", kind="counter")) == [
        (f"sum by (run, stage) (rate(ray_rlft_a_b_total{chosen}[$__rate_interval]))", "{{run}} {{stage}}")
    ]
    buckets = f"sum by (le, run, stage) (rate(ray_rlft_a_b_bucket{chosen}[$__rate_interval]))"
    assert queries(Metric("a/b", "", "", kind="histogram")) == [
        (f"histogram_quantile(0.5, {buckets})", "{{run}} {{stage}} median"),
        (f"histogram_quantile(0.95, {buckets})", "{{run}} {{stage}} 95 %"),
    ]


def test_the_committed_dashboard_is_the_one_that_is_made() -> None:
    committed = ROOT / "deploy" / "monitoring" / "grafana.json"
    assert committed.read_text(encoding="utf-8") == text(), (
        "python -m services.observe.dashboard > deploy/monitoring/grafana.json"
    )


def test_every_metric_in_a_panel_is_exported_and_every_exported_one_is_in_a_panel() -> None:
    exprs = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    in_panels = {re.sub(r"_bucket$", "", name) for expr in exprs for name in re.findall(r"\bray_\w+", expr)}
    assert in_panels == set(exported_names())


def test_panels_have_their_own_places_and_numbers() -> None:
    panels = dashboard()["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23  # Grafana's grid is 24 wide


def test_every_query_letter_is_one_of_grafanas() -> None:
    for panel in dashboard()["panels"]:
        letters = [target["refId"] for target in panel.get("targets", [])]
        assert letters == [chr(ord("A") + k) for k in range(len(letters))]
        assert len(letters) <= 26


def test_without_ray_the_sink_does_nothing(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    sink = RayMetrics()
    sink.start(RunInfo("run", tmp_path))
    sink.log(0, {"reward/mean": 1.0}, "ppo")
    sink.close()
    assert list(tmp_path.iterdir()) == []
    assert json.loads(text())["uid"] == "rlft"
    assert len(recwarn) == 0
