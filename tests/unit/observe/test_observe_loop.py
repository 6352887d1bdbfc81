"""The clock's accounts, what a step leaves behind, and what the terminal says, with a scripted time."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from rlft_core.errors import UserError
from services.observe import Observer, RunInfo, SampleRecord, StageObserver, StepClock, Terminal
from services.observe.sinks import SinkError


class FakeTime:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def pass_(self, seconds: float) -> None:
        self.now_s += seconds


def test_phases_add_up_and_the_rest_is_other() -> None:
    time = FakeTime()
    clock = StepClock(now=time)
    time.pass_(0.5)
    for seconds in (2.0, 3.0):
        with clock("generate"):
            time.pass_(seconds)
    with clock("sync"):
        time.pass_(1.5)
    with clock("update"):
        time.pass_(3.0)
    clock.record({"reward/mean": 0.5, "tokens/generated": 40.0})
    assert clock.metrics() == {
        "reward/mean": 0.5,
        "tokens/generated": 40.0,
        "time/generate_s": 5.0,
        "time/sync_s": 1.5,
        "time/update_s": 3.0,
        "time/step_s": 10.0,
        "time/other_s": 0.5,
        "time/coordination_share": pytest.approx(0.2),  # the sync's 1.5 s and the 0.5 s outside all phases
        "tokens/per_second": 4.0,
    }


def test_an_inner_phase_stops_the_outer_one_and_the_same_phase_is_not_counted_twice() -> None:
    time = FakeTime()
    clock = StepClock(now=time)
    with clock("update"):
        time.pass_(1.0)
        with clock("sync"):
            time.pass_(2.0)
        time.pass_(4.0)
        with clock("update"):
            time.pass_(8.0)
    assert clock.seconds == {"update": 13.0, "sync": 2.0}


def test_a_phase_that_raises_is_charged_all_the_same() -> None:
    time = FakeTime()
    clock = StepClock(now=time)

    def failing() -> None:
        with clock("score"):
            time.pass_(1.0)
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    time.pass_(1.0)
    assert clock.seconds == {"score": 1.0}


class BrokenSink:
    """A tracker whose server went away."""

    def __init__(self) -> None:
        self.calls = 0
        self.closed = 0

    def start(self, run: RunInfo) -> None:
        pass

    def log(self, step: int, metrics: Mapping[str, float], stage: str) -> None:
        self.calls += 1
        raise SinkError("the server is gone")

    def close(self) -> None:
        self.closed += 1


class UnstartableSink(BrokenSink):
    def start(self, run: RunInfo) -> None:
        raise UserError("install it")


def _observer(folder: Path, *trackers: BrokenSink) -> tuple[Observer, FakeTime, io.StringIO]:
    time, out = FakeTime(), io.StringIO()
    run = RunInfo(name="run", folder=folder)
    return Observer(run, trackers=trackers, terminal=Terminal(out), now=time), time, out


def _steps(folder: Path) -> list[tuple[str, int]]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(row["stage"], row["step"]) for row in map(json.loads, lines)]


def _record_and_fail(observe: StageObserver) -> None:
    with observe.step(3) as clock:
        clock.record({"reward/mean": 0.5})
        raise KeyError


def test_a_recorded_step_is_logged_and_one_left_or_failed_is_not(tmp_path: Path) -> None:
    observer, time, _ = _observer(tmp_path)
    with observer.started(), observer.stage("ppo", num_steps=9) as observe:
        for step in range(3):
            with observe.step(step) as clock:
                time.pass_(1.0)
                if step == 1:
                    continue
                clock.record({"reward/mean": 0.5})
        with pytest.raises(KeyError):
            _record_and_fail(observe)
    assert _steps(tmp_path) == [("ppo", 0), ("ppo", 2)]


def test_going_back_to_a_checkpoint_rewrites_the_steps_and_their_samples(tmp_path: Path) -> None:
    observer, _, _ = _observer(tmp_path)
    record = SampleRecord("id", "in", "out", "ref", 1.0, {}, "stop")
    with observer.started(), observer.stage("ppo", num_steps=9, sample_every=1) as observe:
        for step in (0, 1, 2, 3, 1, 2):
            with observe.step(step) as clock:
                assert observe.wants_samples(step)
                observe.samples(step, [record])
                clock.record({"reward/mean": float(step)})
        with observe.step(3):
            observe.samples(3, [record])  # given up after its samples were written
        with observe.step(3) as clock:
            observe.samples(3, [record])
            clock.record({})
    assert _steps(tmp_path) == [("ppo", 0), ("ppo", 1), ("ppo", 2), ("ppo", 3)]
    samples = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in samples] == [0, 1, 2, 3]


def test_a_resumed_stage_drops_what_was_written_after_its_checkpoint(tmp_path: Path) -> None:
    for steps in (range(5), range(3, 6)):
        observer, _, _ = _observer(tmp_path)
        with observer.started(), observer.stage("ppo", num_steps=6) as observe:
            for step in steps:
                with observe.step(step) as clock:
                    clock.record({})
    assert _steps(tmp_path) == [("ppo", step) for step in range(6)]


def test_a_tracker_that_fails_is_reported_once_given_up_and_closed(tmp_path: Path) -> None:
    broken = BrokenSink()
    observer, _, out = _observer(tmp_path, broken)
    with observer.started(), observer.stage("ppo", num_steps=3) as observe:
        for step in range(3):
            with observe.step(step) as clock:
                clock.record({})
    assert (broken.calls, broken.closed) == (1, 1)
    assert out.getvalue().count("the server is gone") == 1
    assert len(_steps(tmp_path)) == 3


def test_a_tracker_that_cannot_start_stops_the_run_and_closes_the_others(tmp_path: Path) -> None:
    first, second = BrokenSink(), UnstartableSink()
    observer, _, _ = _observer(tmp_path, first, second)
    with pytest.raises(UserError, match="install it"), observer.started():
        pass
    assert (first.closed, second.closed) == (1, 0)


ESTIMATE = {"mean": 0.8, "low": 0.7, "high": 0.9, "n": 128}
SYSTEMS = {system: {"rules/all": ESTIMATE} for system in ("base", "mle", "rl")}
GAIN = {"mean": 0.094, "low": 0.047, "high": 0.148, "n": 128}


def test_a_log_file_gets_plain_aligned_lines_without_control_codes(tmp_path: Path, hostile: str) -> None:
    observer, time, out = _observer(tmp_path)
    with observer.started(), observer.stage("ppo", num_steps=120) as observe:
        for step, reward in enumerate((0.5, 0.625)):
            with observe.step(step) as clock, clock("update"):
                time.pass_(2.0)
                clock.record({"reward/mean": reward, "kl/mean": 0.0123, "tokens/generated": 2400.0})
    observer.terminal.evaluation(
        SYSTEMS, {"rl-mle": {"rules/all": GAIN}, "rl-base": {"rules/all": GAIN | {"mean": 0.01}}}
    )
    row = {"input": "\x1b[2Jwipe", "reference": hostile, "outputs": {"base": "red \x1b[31m", "rl": "[bold]x[/bold]"}}
    observer.terminal.samples([row], ["base", "rl"])
    text = out.getvalue()
    assert "\x1b" not in text
    assert "\r" not in text
    lines = text.splitlines()
    assert lines[0] == "== stage ppo, 120 steps =="
    assert lines[1] == "ppo  step   1/120  reward   0.5000  kl   0.0123  tok/s   1,200  s/step   2.00  eta 0:03:58"
    assert lines[2] == "ppo  step   2/120  reward   0.6250  kl   0.0123  tok/s   1,200  s/step   2.00  eta 0:03:56"
    assert lines[3] == "ppo: done in 4.0 s"
    assert "All rules passed   80.0 % [70.0 \u2013 90.0]   80.0 % [70.0 \u2013 90.0]" in text
    assert "+9.4 [+4.7 to +14.8] better" in text
    assert "+1.0 [" not in text
    assert hostile in text
    assert "[bold]x[/bold]" in text


def test_a_metric_that_is_missing_in_one_step_keeps_its_column() -> None:
    out = io.StringIO()
    terminal = Terminal(out)
    terminal.stage("ppo", 2)
    terminal.step(0, {"kl/mean": 0.5, "time/step_s": 1.0})
    terminal.step(1, {"time/step_s": 1.0})
    first, second = out.getvalue().splitlines()[1:]
    assert second == "ppo  step 2/2  kl        -  s/step   1.00  eta 0:00:00"
    assert len(first) == len(second)


def test_a_stream_that_cannot_write_a_letter_replaces_it() -> None:
    raw = io.BytesIO()
    terminal = Terminal(io.TextIOWrapper(raw, encoding="ascii"))
    terminal.line("caf\u00e9")
    assert raw.getvalue() == b"caf?\n"


class FakeTty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_no_markup_or_codes_from_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = FakeTty()
    terminal = Terminal(out)
    terminal.stage("ppo [x]", 2)
    terminal.step(0, {"reward/mean": 0.5, "time/step_s": 1.0})
    terminal.warn("careful")
    terminal.end_stage(3.0)
    terminal.evaluation({"rl": {"rouge1": ESTIMATE}}, {})
    terminal.samples([{"input": "in", "reference": "[red]r", "outputs": {"rl": "\x1b]0;title\x07x"}}], ["rl"])
    text = out.getvalue()
    assert "reward 0.5000" in text
    assert "1/2" in text
    assert "careful" in text
    assert "ROUGE-1" in text
    assert "[red]r" in text
    assert "\x1b]0;" not in text
    assert "ppo [x]" in text
