"""Requests to a run: asked, answered, refused, withdrawn."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from rlft_core.errors import DeadlineError, UserError
from services.control.requests import FOLDER, answer, ask, clear, waiting


def _serve_one(run: Path, said: dict[str, object]) -> threading.Thread:
    def work() -> None:
        while not (found := waiting(run)):
            time.sleep(0.01)
        answer(run, found[0], {**said, "verb": found[0].verb, "arguments": found[0].arguments})

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_request_is_answered_and_leaves_nothing_behind(tmp_path: Path) -> None:
    thread = _serve_one(tmp_path, {"rollouts": 3})
    said = ask(tmp_path, "scale", {"rollouts": 3}, deadline_s=10)
    thread.join()
    assert said == {"rollouts": 3, "verb": "scale", "arguments": {"rollouts": 3}}
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_a_refusal_is_the_users_error(tmp_path: Path) -> None:
    thread = _serve_one(tmp_path, {"refused": "the stage sft has no engines"})
    with pytest.raises(UserError, match=r"the stage sft has no engines"):
        ask(tmp_path, "scale", {"rollouts": 3}, deadline_s=10)
    thread.join()


def test_what_nobody_took_is_withdrawn(tmp_path: Path) -> None:
    with pytest.raises(DeadlineError, match=r"did not answer 'stop' within 0.2 s"):
        ask(tmp_path, "stop", {}, deadline_s=0.2)
    assert waiting(tmp_path) == []


def test_an_answer_to_a_withdrawn_request_is_dropped(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "1.a.request.json").write_text('{"verb": "stop", "arguments": {}}')
    [request] = waiting(tmp_path)
    (tmp_path / FOLDER / "1.a.request.json").unlink()
    answer(tmp_path, request, {"stopping": True})
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_requests_come_in_their_order_once(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    for name in ("2.b", "1.a"):
        (tmp_path / FOLDER / f"{name}.request.json").write_text('{"verb": "stop", "arguments": {}}')
    found = waiting(tmp_path)
    assert [request.id for request in found] == ["1.a", "2.b"]
    answer(tmp_path, found[0], {})
    assert [request.id for request in waiting(tmp_path)] == ["2.b"]
    clear(tmp_path)
    assert waiting(tmp_path) == []
