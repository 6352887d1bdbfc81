"""Steps as OpenTelemetry traces: `tracking: {sinks: [otel]}`. One trace for each step, a span for each of its phases.

    step ├── sync ├── watch ├── generate ├── update ┐
                                                   └── learner: fetch, update, publish

Made when the step is done, from the clock's seconds: phases are laid end to end in the order in which the coordinator was
first in each, so a span is as long as its phase took, all of its parts together. Where spans go is said by
OpenTelemetry's own variables, first OTEL_EXPORTER_OTLP_ENDPOINT; nobody waits for a collector that is away.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from services.observe.metric_table import find
from services.observe.sinks import RunInfo, finite, import_tracker

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

_STEP = "time/step_s"
#: In this order, while the coordinator waits in its phase `update`. A checkpoint is written later, beside the next samples.
_LEARNER = ("fetch", "update", "publish")
_NANOSECONDS = 1_000_000_000


class TraceSink:
    """A sink that sends a trace for each step. `exporter`: where to, instead of a collector."""

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        self._exporter = exporter
        self._provider: Any = None
        self._tracing: Any = None
        self._run = ""

    def start(self, run: RunInfo) -> None:
        """Open the way to the collector. Raises UserError without OpenTelemetry's packages."""
        sdk = import_tracker("opentelemetry.sdk.trace", sink="otel")
        export = import_tracker("opentelemetry.sdk.trace.export", sink="otel")
        resources = import_tracker("opentelemetry.sdk.resources", sink="otel")
        self._tracing = import_tracker("opentelemetry.trace", sink="otel")
        exporter = self._exporter
        if exporter is None:
            exporter = import_tracker(
                "opentelemetry.exporter.otlp.proto.http.trace_exporter", sink="otel"
            ).OTLPSpanExporter()
        self._run = run.name
        self._provider = sdk.TracerProvider(resource=resources.Resource.create({"service.name": "rlft"}))
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter))

    def log(self, step: int, metrics: Mapping[str, float], stage: str) -> None:
        """Send the trace of a step that is done."""
        row = finite(metrics)
        if self._provider is None or _STEP not in row:
            return
        tracer: Tracer = self._provider.get_tracer("rlft")
        end = time.time_ns()
        begin = end - int(row[_STEP] * _NANOSECONDS)
        told: dict[str, str | int | float] = {"rlft.run": self._run, "rlft.stage": stage, "rlft.step": step}
        numbers = {name: value for name, value in row.items() if not name.startswith("time/")}
        root = tracer.start_span("step", start_time=begin, attributes={**told, **numbers})
        below = self._tracing.set_span_in_context(root)
        for phase, start, stop in laid_out(_phases(row), begin):
            span = tracer.start_span(phase, context=below, start_time=start, attributes=told)
            if phase == "update":
                inside = self._tracing.set_span_in_context(span)
                for part, first, last in laid_out(_parts(row), start):
                    tracer.start_span(f"learner: {part}", context=inside, start_time=first, attributes=told).end(last)
            span.end(stop)
        root.end(end)

    def close(self) -> None:
        """Send what is left."""
        if self._provider is not None:
            self._provider.shutdown()
            self._provider = None


def laid_out(seconds: Iterable[tuple[str, float]], begin: int) -> list[tuple[str, int, int]]:
    """(name, start, end) in nanoseconds, one after the other from `begin` on."""
    found = []
    for name, length in seconds:
        end = begin + int(length * _NANOSECONDS)
        found.append((name, begin, end))
        begin = end
    return found


def _phases(row: Mapping[str, float]) -> list[tuple[str, float]]:
    """The coordinator's phases, in the order of the row; what lies between them is not one."""
    found = [
        (labels["phase"], row[path]) for path in row for line, labels in find(path) if line.name == "rlft_phase_seconds"
    ]
    return [(phase, seconds) for phase, seconds in found if phase != "other"]


def _parts(row: Mapping[str, float]) -> list[tuple[str, float]]:
    paths = {part: f"time/learner_{part}_s" for part in _LEARNER}
    return [(part, row[path]) for part, path in paths.items() if path in row]
