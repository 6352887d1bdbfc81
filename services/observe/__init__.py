"""What a person sees of a run: metrics, samples, progress, and (in `services.observe.report`) the HTML report."""

from __future__ import annotations

from services.observe.clock import StepClock
from services.observe.observer import Observer, StageObserver
from services.observe.samples import SampleLog, SampleRecord, sample_records
from services.observe.sinks import RunInfo, Sink, make_sinks
from services.observe.terminal import Terminal

__all__ = [
    "Observer",
    "RunInfo",
    "SampleLog",
    "SampleRecord",
    "Sink",
    "StageObserver",
    "StepClock",
    "Terminal",
    "make_sinks",
    "sample_records",
]
