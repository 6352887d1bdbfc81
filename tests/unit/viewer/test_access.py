"""Who may look and who may steer: keys, sessions, tokens against other pages, names of the host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from rlft_core.errors import UserError
from services.keys import Keys, new_key
from services.viewer.access import check_host
from services.viewer.app import create_app

LOOKER, LOOKER_KEY = new_key("looker")
ADMIN, ADMIN_KEY = new_key("ops", admin=True)
KEYS = Keys((LOOKER_KEY, ADMIN_KEY))


@pytest.fixture
def guarded(runs: Path) -> Iterator[TestClient]:
    with TestClient(create_app(runs, KEYS), base_url="http://viewer.example", follow_redirects=False) as client:
        yield client


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.mark.parametrize(
    "path", ["/api/runs", "/api/runs/alpha", "/parts/runs", "/runs/alpha", "/compare", "/runs/alpha/report"]
)
def test_looking_needs_a_key(guarded: TestClient, path: str) -> None:
    answer = guarded.get(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert (
        answer.json()["error"]["message"] == "an API key is needed: log in, or send it as 'Authorization: Bearer KEY'"
    )
    wrong = guarded.get(path, headers=bearer("rlft-wrong"))
    assert wrong.status_code == 401
    assert wrong.json()["error"]["message"] == "this API key is not known here"


def test_any_key_may_look(guarded: TestClient) -> None:
    assert guarded.get("/api/runs", headers=bearer(LOOKER)).status_code == 200
    assert guarded.get("/api/runs", headers=bearer(ADMIN)).status_code == 200


def test_health_and_files_need_none(guarded: TestClient) -> None:
    assert guarded.get("/healthz").status_code == 200
    assert guarded.get("/static/viewer.css").status_code == 200


def test_a_browser_is_sent_to_log_in(guarded: TestClient) -> None:
    answer = guarded.get("/runs/alpha", headers={"accept": "text/html"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert 'type="password"' in guarded.get("/login").text


def test_logging_in_and_out(guarded: TestClient) -> None:
    guarded.headers["accept"] = "text/html"
    refused = guarded.post("/login", data={"key": "rlft-wrong"})
    assert refused.status_code == 401
    assert "This api key is not known here." in refused.text
    answer = guarded.post("/login", data={"key": f" {LOOKER} "})
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert LOOKER not in cookie
    page = guarded.get("/runs/live")
    assert page.status_code == 200
    assert "looker" in page.text
    assert "Your key may look." in page.text
    assert "data-steer" not in page.text
    assert guarded.post("/logout").headers["location"] == "/login"
    assert guarded.get("/runs/live").status_code == 303


def test_the_cookie_is_for_https_alone_where_there_is_https(runs: Path) -> None:
    with TestClient(create_app(runs, KEYS), base_url="https://viewer.example", follow_redirects=False) as client:
        assert "Secure" in client.post("/login", data={"key": ADMIN}).headers["set-cookie"]


def test_a_login_that_is_too_long_is_nobodys(guarded: TestClient) -> None:
    assert guarded.post("/login", content=b"key=" + b"x" * 5000).status_code == 401


@pytest.mark.parametrize("path", ["/api/runs/live/stop", "/api/runs/live/scale"])
def test_steering_needs_an_admins_key(guarded: TestClient, path: str) -> None:
    assert guarded.post(path, json={}).status_code == 401
    assert guarded.post(path, json={}, headers=bearer("rlft-wrong")).status_code == 401
    answer = guarded.post(path, json={}, headers=bearer(LOOKER))
    assert answer.status_code == 403
    assert (
        answer.json()["error"]["message"]
        == "the key 'looker' may look, not steer; `rlft key NAME --admin` makes one that may"
    )


def test_a_session_alone_does_not_steer(guarded: TestClient) -> None:
    """Another page can make a browser send its cookie, but not our header."""
    guarded.post("/login", data={"key": ADMIN})
    answer = guarded.post("/api/runs/live/stop", json={})
    assert answer.status_code == 403
    assert "needs the header X-Rlft-Token, which the viewer's own pages send" in answer.json()["error"]["message"]
    assert guarded.post("/api/runs/live/stop", json={}, headers={"x-rlft-token": "wrong"}).status_code == 403


def test_a_stranger_is_turned_away_before_the_run_is_looked_for(guarded: TestClient) -> None:
    assert guarded.post("/api/runs/nope/stop", json={}).status_code == 401


def test_without_keys_other_pages_cannot_steer(browser: TestClient) -> None:
    answer = browser.post("/api/runs/live/stop", json={})
    assert answer.status_code == 403
    assert "load the page again" in answer.json()["error"]["message"]


def test_without_keys_only_this_machines_names_are_answered(runs: Path) -> None:
    with TestClient(create_app(runs, Keys()), base_url="http://evil.example") as client:
        assert client.get("/").status_code == 400
    with TestClient(create_app(runs, Keys()), base_url="http://localhost:8266") as client:
        assert client.get("/").status_code == 200


def test_without_keys_there_is_nothing_to_log_in_to(runs: Path) -> None:
    with TestClient(create_app(runs, Keys()), base_url="http://127.0.0.1", follow_redirects=False) as client:
        assert client.get("/login").headers["location"] == "/"


def test_without_keys_nobody_else_may_reach_it() -> None:
    check_host("127.0.0.1", Keys())
    check_host("0.0.0.0", KEYS)
    with pytest.raises(UserError, match=r"--host 0\.0\.0\.0: without API keys the viewer listens on 127\.0\.0\.1 only"):
        check_host("0.0.0.0", Keys())
