"""Stop and scale: what the run is asked, what it answers, and what is refused before it is asked."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rlft_core.errors import DeadlineError
from services.control.requests import Request, answer, waiting
from services.keys import Keys, new_key
from services.viewer.app import create_app
from services.viewer.metrics import MetricsStore
from services.viewer.status import state_of
from services.viewer.steering import Stop, stop


@contextmanager
def a_run_that_says(folder: Path, said: dict[str, Any]) -> Iterator[list[Request]]:
    """Answers the first request."""
    asked: list[Request] = []

    def work() -> None:
        end = time.monotonic() + 10
        while time.monotonic() < end and not asked:
            for request in waiting(folder):
                asked.append(request)
                answer(folder, request, said)
            time.sleep(0.02)

    thread = threading.Thread(target=work)
    thread.start()
    yield asked
    thread.join()


def token_of(page: str) -> dict[str, str]:
    found = re.search(r'name="rlft-token" content="([^"]+)"', page)
    assert found is not None
    return {"x-rlft-token": found.group(1)}


def test_a_run_is_stopped_from_its_page(browser: TestClient, runs: Path) -> None:
    token = token_of(browser.get("/runs/live").text)
    with a_run_that_says(runs / "live", {"state": "stopping"}) as asked:
        found = browser.post("/api/runs/live/stop", json={"now": True}, headers=token)
    assert (found.status_code, found.json()) == (200, {"state": "stopping"})
    assert [(request.verb, request.arguments) for request in asked] == [("stop", {"now": True})]


def test_a_run_is_scaled(browser: TestClient, runs: Path) -> None:
    token = token_of(browser.get("/runs/live").text)
    with a_run_that_says(runs / "live", {"rollouts": 3}) as asked:
        found = browser.post("/api/runs/live/scale", json={"rollouts": 3, "judge": 1}, headers=token)
    assert found.json() == {"rollouts": 3}
    assert [(request.verb, request.arguments) for request in asked] == [("scale", {"rollouts": 3, "judge": 1})]


def test_what_the_run_refuses_is_told(browser: TestClient, runs: Path) -> None:
    token = token_of(browser.get("/runs/live").text)
    with a_run_that_says(runs / "live", {"refused": "rollout.max_engines is 2"}):
        found = browser.post("/api/runs/live/scale", json={"rollouts": 3}, headers=token)
    assert (found.status_code, found.json()["error"]["message"]) == (409, "rollout.max_engines is 2")


def test_a_program_sends_its_key(runs: Path) -> None:
    secret, key = new_key("ops", admin=True)
    with (
        TestClient(create_app(runs, Keys((key,)))) as client,
        a_run_that_says(runs / "live", {"state": "stopping"}) as asked,
    ):
        found = client.post("/api/runs/live/stop", headers={"authorization": f"Bearer {secret}"})
    assert found.status_code == 200
    assert asked[0].arguments == {"now": False}


def test_a_session_with_its_token_steers(runs: Path) -> None:
    secret, key = new_key("ops", admin=True)
    with TestClient(create_app(runs, Keys((key,)))) as client:
        client.post("/login", data={"key": secret})
        token = token_of(client.get("/runs/live").text)
        with a_run_that_says(runs / "live", {"state": "stopping"}):
            assert client.post("/api/runs/live/stop", json={}, headers=token).status_code == 200


def test_a_run_that_does_not_work_is_not_asked(browser: TestClient, runs: Path) -> None:
    token = token_of(browser.get("/runs/live").text)
    found = browser.post("/api/runs/alpha/stop", json={}, headers=token)
    assert found.status_code == 409
    assert found.json()["error"]["message"] == "the run alpha is done: only one that works can be stopped or scaled"
    assert not (runs / "alpha" / "control").exists()


def test_a_run_that_does_not_answer_is_told_in_time(runs: Path) -> None:
    folder = runs / "live"
    with pytest.raises(DeadlineError, match=r"the run live did not answer 'stop' within 0\.3 s"):
        stop(folder, state_of(folder, MetricsStore()), Stop(), deadline_s=0.3)


@pytest.mark.parametrize(
    "body, status, told",
    [
        (b"{}", 409, "say how many of what: rollouts, reward or judge"),
        (b'{"rollouts": -1}', 422, "rollouts: Input should be greater than or equal to 0"),
        (b'{"rollouts": "3"}', 422, "rollouts: Input should be a valid integer"),
        (b'{"engines": 3}', 422, "engines: Extra inputs are not permitted"),
        (b"nonsense", 422, "this cannot be understood"),
        (b'{"rollouts": 1}' + b" " * 20_000, 413, "a request to a run has 16384 bytes at most"),
    ],
)
def test_what_makes_no_sense_is_refused(browser: TestClient, runs: Path, body: bytes, status: int, told: str) -> None:
    token = token_of(browser.get("/runs/live").text)
    found = browser.post("/api/runs/live/scale", content=body, headers=token)
    assert found.status_code == status
    assert told in found.json()["error"]["message"]
    assert not (runs / "live" / "control").exists()
