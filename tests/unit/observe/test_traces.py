"""Steps as traces: spans of the phases, end to end, under one root; and a collector that is away holds nobody up."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.observe.clock import StepClock
from services.observe.sinks import RunInfo, make_sinks
from services.observe.traces import TraceSink

SECOND = 1_000_000_000


class FakeTime:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def spans_of(folder: Path, *steps: dict[str, float]) -> list[ReadableSpan]:
    exporter = InMemorySpanExporter()
    sink = TraceSink(exporter)
    sink.start(RunInfo("mine", folder))
    for step, metrics in enumerate(steps):
        sink.log(step, metrics, "ppo")
    sink.close()
    return sorted(exporter.get_finished_spans(), key=lambda span: span.start_time or 0)


def a_step() -> dict[str, float]:
    """A row as the loop's clock makes it: phases of 1, 2 and 4 seconds in a step of 8, in which the learner worked for 3."""
    now = FakeTime()
    clock = StepClock(now=now)
    for phase, seconds in (("sync", 1.0), ("generate", 2.0), ("update", 4.0)):
        with clock(phase):
            now.now += seconds
    now.now += 1
    learner = {"time/learner_fetch_s": 0.5, "time/learner_update_s": 2.0, "time/learner_save_s": 9.0}
    clock.record({"reward/mean": 0.25, "time/learner_publish_s": 0.5, "time/sampling_busy_s": 2.5} | learner)
    return clock.metrics()


def test_a_step_is_a_trace_with_a_span_for_each_phase_laid_end_to_end(tmp_path: Path) -> None:
    spans = {span.name: span for span in spans_of(tmp_path, a_step())}
    root = spans["step"]
    begin = root.start_time or 0

    def placed(name: str) -> tuple[float, float]:
        span = spans[name]
        return ((span.start_time or 0) - begin) / SECOND, ((span.end_time or 0) - begin) / SECOND

    assert {name: placed(name) for name in spans} == {
        "step": (0, 8),
        "sync": (0, 1),
        "generate": (1, 3),
        "update": (3, 7),
        "learner: fetch": (3, 3.5),
        "learner: update": (3.5, 5.5),
        "learner: publish": (5.5, 6),
    }
    assert root.parent is None
    below = {name: span.parent.span_id for name, span in spans.items() if span.parent is not None}
    inside = {name for name, parent in below.items() if parent == spans["update"].context.span_id}
    assert inside == {"learner: fetch", "learner: update", "learner: publish"}
    assert {parent for name, parent in below.items() if name not in inside} == {root.context.span_id}
    assert len({span.context.trace_id for span in spans.values()}) == 1


def test_spans_say_of_which_step_they_are_and_the_root_has_the_numbers(tmp_path: Path) -> None:
    spans = spans_of(tmp_path, a_step(), a_step() | {"kl/mean": float("nan")})
    assert len({span.context.trace_id for span in spans}) == 2
    assert {(span.attributes or {})["rlft.step"] for span in spans} == {0, 1}
    roots = [span.attributes or {} for span in spans if span.name == "step"]
    assert [dict(root) for root in roots] == [
        {"rlft.run": "mine", "rlft.stage": "ppo", "rlft.step": step, "reward/mean": 0.25} for step in (0, 1)
    ]
    assert spans[0].resource.attributes["service.name"] == "rlft"


def test_a_row_without_a_time_is_no_trace_and_a_sink_that_never_started_is_silent(tmp_path: Path) -> None:
    assert spans_of(tmp_path, {"reward/mean": 1.0}) == []
    sink = TraceSink(InMemorySpanExporter())
    sink.log(0, a_step(), "ppo")
    sink.close()


def test_a_collector_that_is_away_holds_no_step_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    [sink] = make_sinks(["otel"])
    sink.start(RunInfo("mine", tmp_path))
    start = time.monotonic()
    sink.log(0, a_step(), "ppo")
    assert time.monotonic() - start < 1
    sink.close()
    assert time.monotonic() - start < 20
