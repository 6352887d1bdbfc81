"""What a run tells as JSON lines: in its folder always, on standard output when it is asked for."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from rlft_core.errors import EngineError, UserError
from services.observe.event_log import EventTerminal, event_terminal
from services.observe.observer import Observer
from services.observe.sinks import RunInfo
from services.observe.terminal import Terminal

DIED = "engine engine-1 died in 'generate': it was killed"


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def logged(folder: Path) -> list[dict[str, Any]]:
    return lines((folder / "log.jsonl").read_text(encoding="utf-8"))


def run_of_one_stage(terminal: Terminal, folder: Path) -> None:
    """Two steps with a warning between them, told through the observer as the loop does."""
    observer = Observer(RunInfo("run", folder), terminal=terminal)
    with observer.started(), observer.stage("ppo", num_steps=2) as observe:
        with observe.step(0) as clock:
            clock.record({"reward/mean": 0.5, "policy/lr": 1.0})
        terminal.warn(DIED)
        with observe.step(1) as clock:
            clock.record({"reward/mean": float("nan")})


def test_a_run_leaves_its_events_in_order_with_run_stage_step_and_actor(tmp_path: Path) -> None:
    terminal = EventTerminal("mine", tmp_path, stream=io.StringIO())
    with terminal.run():
        run_of_one_stage(terminal, tmp_path)
        terminal.line("report: runs/mine/report.html")
    rows = logged(tmp_path)
    keys = ("level", "event", "run", "stage", "step", "actor")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        ("info", "run started", "mine", None, None, "coordinator"),
        ("info", "stage started", "mine", "ppo", None, "coordinator"),
        ("info", "step done", "mine", "ppo", 0, "coordinator"),
        ("warning", "warning", "mine", "ppo", 0, "engine-1"),
        ("info", "step done", "mine", "ppo", 1, "coordinator"),
        ("info", "stage done", "mine", "ppo", 1, "coordinator"),
        ("info", "note", "mine", None, None, "coordinator"),
        ("info", "run done", "mine", None, None, "coordinator"),
    ]
    assert rows[1]["num_steps"] == 2
    assert rows[2]["reward/mean"] == 0.5
    assert "policy/lr" not in rows[2]  # metrics.jsonl has all of them
    assert rows[3]["message"] == DIED
    assert rows[4]["reward/mean"] is None
    assert rows[0]["time"] <= rows[-1]["time"]
    assert rows[0]["time"].endswith("Z")


def test_people_still_read_text(tmp_path: Path) -> None:
    events, plain = io.StringIO(), io.StringIO()
    run_of_one_stage(EventTerminal("mine", tmp_path, stream=events), tmp_path)
    run_of_one_stage(Terminal(plain), tmp_path)

    def without_times(text: str) -> list[str]:
        return [line.split("s/step")[0].split("done in")[0] for line in text.splitlines()]

    assert without_times(events.getvalue()) == without_times(plain.getvalue())
    assert f"warning: {DIED}" in events.getvalue()


def test_as_json_every_line_on_the_stream_is_an_event(tmp_path: Path) -> None:
    stream = io.StringIO()
    terminal = EventTerminal("mine", tmp_path, as_json=True, stream=stream)
    with terminal.run():
        run_of_one_stage(terminal, tmp_path)
        terminal.evaluation({"rl": {"rougeL": {"mean": 0.4, "low": 0.3, "high": 0.5, "n": 10}}}, {})
        terminal.samples([{"input": "a", "reference": "b", "outputs": {"rl": "c"}}], ["rl"])
        terminal.line("a line\nand another \x1b[31m \u2212")
    assert lines(stream.getvalue()) == logged(tmp_path)
    assert logged(tmp_path)[-3]["means"] == {"rl": {"rougeL": 0.4}}
    assert logged(tmp_path)[-2]["message"] == "a line\nand another \x1b[31m \u2212"
    assert "\x1b" not in stream.getvalue()


def test_a_run_that_fails_says_in_which_stage_and_why(tmp_path: Path) -> None:
    terminal = EventTerminal("mine", tmp_path, stream=io.StringIO())
    observer = Observer(RunInfo("mine", tmp_path), terminal=terminal)
    with (
        pytest.raises(EngineError),
        terminal.run(),
        observer.started(),
        observer.stage("ppo", num_steps=2) as observe,
        observe.step(0),
    ):
        raise EngineError("all engines are dead")
    assert [(row["level"], row["event"], row["stage"]) for row in logged(tmp_path)[-2:]] == [
        ("error", "stage ended early", "ppo"),
        ("error", "run ended early", None),
    ]
    assert logged(tmp_path)[-1]["message"] == "EngineError: all engines are dead"


def test_a_second_start_goes_on_below_the_first_and_cuts_off_half_a_line(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"event": "run started"}\n{"event": "st')
    with EventTerminal("mine", tmp_path, stream=io.StringIO()).run():
        pass
    assert [row["event"] for row in logged(tmp_path)] == ["run started", "run started", "run done"]


def test_a_folder_that_cannot_be_written_to_is_told_of_once(tmp_path: Path) -> None:
    stream = io.StringIO()
    terminal = EventTerminal("mine", tmp_path / "gone", stream=stream)
    with terminal.run():
        terminal.line("one")
    assert stream.getvalue().count("The run goes on.") == 1
    assert "gone/log.jsonl" in stream.getvalue()


def test_what_the_environment_asks_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for asked in ("", "text", " TEXT "):
        event_terminal("mine", tmp_path, {"RLFT_LOG": asked}).line("hello")
    assert capsys.readouterr().out == "hello\nhello\nhello\n"
    event_terminal("mine", tmp_path, {"RLFT_LOG": "json"}).line("hello")
    assert json.loads(capsys.readouterr().out)["message"] == "hello"
    with pytest.raises(UserError, match=r"RLFT_LOG is 'yaml'; it is `text` \(or nothing\), for people, or `json`"):
        event_terminal("mine", tmp_path, {"RLFT_LOG": "yaml"})
