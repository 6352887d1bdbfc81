"""The Grafana dashboard, made from the metrics table: a line added there is a curve here.

    python -m services.observe.dashboard > deploy/monitoring/grafana.json

The committed file is what this prints; a test compares them. Knows nothing of a Grafana server: the file is imported by hand,
or by Grafana's own provisioning, and asks for the Prometheus data source.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from services.observe.metric_table import LABELS, OTHER, RAY, TABLE, Metric

Json = dict[str, Any]

#: Rows of the dashboard and their panels. A panel that no row names comes into the last one.
ROWS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Is it learning?", ("Progress", "Reward", "Each reward", "Loss", "KL", "Length of completions", "Entropy")),
    ("Is it sound?", ("Engines", "Engine against learner", "Staleness", "Clipping", "Judges", "Completions left out")),
    (
        "Where does the time go?",
        ("Time of a step", "Phases", "Tokens per second", "Learner", "Weight sync", "Coordination"),
    ),
)
LAST_ROW = "Details"
#: Ray's own metrics of the machines, and how a node's panel is asked for.
MACHINES: tuple[tuple[str, str, str, str], ...] = (
    ("CPU of each node", "percent", "ray_node_cpu_utilization", "max by (instance) (ray_node_cpu_utilization)"),
    ("Memory of each node", "bytes", "ray_node_mem_used", "max by (instance) (ray_node_mem_used)"),
    ("GPU of each node", "percent", "ray_node_gpus_utilization", "avg by (instance) (ray_node_gpus_utilization)"),
    ("Object store", "bytes", "ray_object_store_memory", "sum by (Location) (ray_object_store_memory)"),
)
_QUANTILES = ((0.5, "median"), (0.95, "95 %"))
_WIDTH, _HEIGHT, _ABREAST = 8, 8, 3
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_CHOSEN = '{run=~"$run", stage=~"$stage"}'


def dashboard() -> Json:
    """The whole dashboard as Grafana's JSON."""
    by_title: dict[str, list[Metric]] = {}
    for metric in (*TABLE, OTHER):
        by_title.setdefault(metric.panel, []).append(metric)
    named = {title for _, titles in ROWS for title in titles}
    rows = [*ROWS, (LAST_ROW, tuple(title for title in by_title if title not in named))]
    panels: list[Json] = []
    for heading, titles in rows:
        _add_row(panels, heading, [_panel(title, by_title[title]) for title in titles])
    _add_row(panels, "Machines", [_machine_panel(title, unit, query) for title, unit, _, query in MACHINES])
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    return {
        "uid": "rlft",
        "title": "rlft",
        "description": "Made by services/observe/dashboard.py from the metrics table; change that, not this file.",
        "tags": ["rlft", "ray"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_source(), *(_choice(label) for label in LABELS)]},
        "panels": panels,
    }


def queries(metric: Metric) -> list[tuple[str, str]]:
    """(PromQL, legend) of a metric. Series of a run that was started again are one curve: the labels that Ray adds go."""
    by = ", ".join((*LABELS, *metric.labels))
    name = metric.exported
    legend = " ".join(f"{{{{{label}}}}}" for label in (*LABELS, *metric.labels))
    if metric.kind == "counter":
        return [(f"sum by ({by}) (rate({name}{_CHOSEN}[$__rate_interval]))", legend)]
    if metric.kind == "histogram":
        # No mean: Ray hands on the buckets only, and makes up the sum from their middles.
        buckets = f"sum by (le, {by}) (rate({name}_bucket{_CHOSEN}[$__rate_interval]))"
        return [(f"histogram_quantile({share}, {buckets})", f"{legend} {told}") for share, told in _QUANTILES]
    return [(f"max by ({by}) ({name}{_CHOSEN})", legend)]


def exported_names() -> list[str]:
    """All names that a query of this dashboard may contain, without the endings of histograms."""
    return [*(metric.exported for metric in (*TABLE, OTHER)), *(name for _, _, name, _ in MACHINES)]


def _panel(title: str, metrics: Sequence[Metric]) -> Json:
    targets = []
    for metric in metrics:
        told = "" if len(metrics) == 1 else f" {metric.name.removeprefix('rlft_')}"
        targets += [(query, legend + told) for query, legend in queries(metric)]
    note = "\n".join(f"{metric.name}: {metric.help}." for metric in metrics)
    return _series(title, metrics[0].unit, note, targets)


def _machine_panel(title: str, unit: str, query: str) -> Json:
    return _series(title, unit, "Ray's own metric.", [(query, "{{instance}} {{Location}}")])


def _series(title: str, unit: str, note: str, targets: Iterable[tuple[str, str]]) -> Json:
    return {
        "type": "timeseries",
        "title": title,
        "description": note,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": unit, "custom": {"lineWidth": 2, "spanNulls": True}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": _SOURCE, "expr": query, "legendFormat": legend.strip()}
            for at, (query, legend) in enumerate(targets)
        ],
    }


def _add_row(panels: list[Json], heading: str, found: Sequence[Json]) -> None:
    """Put a heading and its panels below what is there, three abreast."""
    top = max((panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels), default=0)
    place = {"x": 0, "y": top, "w": _WIDTH * _ABREAST, "h": 1}
    panels.append({"type": "row", "title": heading, "collapsed": False, "gridPos": place, "panels": []})
    for at, panel in enumerate(found):
        x, y = _WIDTH * (at % _ABREAST), top + 1 + _HEIGHT * (at // _ABREAST)
        panel["gridPos"] = {"x": x, "y": y, "w": _WIDTH, "h": _HEIGHT}
        panels.append(panel)


def _source() -> Json:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _choice(label: str) -> Json:
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "query": f"label_values({RAY}rlft_step, {label})",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }


def text() -> str:
    """The dashboard as the file that is committed."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
