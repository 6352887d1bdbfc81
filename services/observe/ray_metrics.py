"""Metrics of every step on Ray's metrics ports, where Prometheus reads them. On whenever Ray runs; writes no file.

    metrics.jsonl row ─▶ metric_table.py ─▶ ray.util.metrics ─▶ the node's agent ─▶ :8080/metrics  ray_rlft_...{run, stage}

The coordinator sets them all, for it sees the numbers of every part: engines, reward actors, judges and the learner. A
number that is not finite is left out. Metrics are made at the first row: before that, Ray may not have started. What a stage
set last would stand on the ports until the process ends, so it becomes NaN, which is no number to show, with the next stage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import ray
from ray.util.metrics import Counter, Gauge, Histogram

from services.observe.metric_table import LABELS, SECONDS, Metric, find
from services.observe.sinks import RunInfo, finite


class RayMetrics:
    """A sink for Prometheus. Without Ray it does nothing."""

    def __init__(self) -> None:
        self._run = self._stage = ""
        self._made: dict[str, Gauge | Counter | Histogram] = {}
        self._shown: dict[tuple[str, ...], tuple[Gauge, dict[str, str]]] = {}

    def start(self, run: RunInfo) -> None:
        """Remember whose metrics these are."""
        self._run = run.name

    def log(self, step: int, metrics: Mapping[str, float], stage: str) -> None:
        """Hand a step's numbers to Ray."""
        if not ray.is_initialized():
            return
        if stage != self._stage:
            self._forget()
            self._stage = stage
        for path, value in (finite(metrics) | {"step": step + 1.0}).items():
            for metric, labels in find(path):
                self._record(metric, value, {"run": self._run, "stage": stage, **labels})

    def close(self) -> None:
        """Let go; Ray drops the series when this process ends."""
        self._made.clear()
        self._shown.clear()

    def _forget(self) -> None:
        """Show nothing more of the stage before."""
        for gauge, tags in self._shown.values():
            gauge.set(math.nan, tags)
        self._shown.clear()

    def _record(self, metric: Metric, value: float, tags: dict[str, str]) -> None:
        made = self._made.get(metric.name)
        if made is None:
            made = self._made[metric.name] = _make(metric)
        if isinstance(made, Gauge):
            made.set(value, tags)
            self._shown[metric.name, *tags.values()] = made, tags
        elif isinstance(made, Histogram):
            made.observe(value, tags)
        elif value > 0:  # a counter refuses to be raised by nothing
            made.inc(value, tags)


def _make(metric: Metric) -> Gauge | Counter | Histogram:
    keys = (*LABELS, *metric.labels)
    if metric.kind == "counter":
        return Counter(metric.name, metric.help, keys)
    if metric.kind == "histogram":
        return Histogram(metric.name, metric.help, list(SECONDS), keys)
    return Gauge(metric.name, metric.help, keys)
