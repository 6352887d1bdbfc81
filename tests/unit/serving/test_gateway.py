"""The HTTP side with scripted replicas: answers, the best of several, keys, limits, refusals, and draining."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from rlft_core.config.postprocess import PostprocessConfig
from rlft_core.serving.requests import RequestLimits
from rlft_core.serving.routing import Allowance
from services.keys import Keys
from services.serving.fake_pools import FakePools
from services.serving.meters import CountingMeters
from tests.unit.serving.gateways import (
    ADMIN,
    ADMIN_SECRET,
    CHAT_BODY,
    KEY,
    SECRET,
    asked,
    gateway,
    get,
    post,
    route,
    words_of,
)

# What is answered


def test_an_answer_says_whose_it_is() -> None:
    made = gateway()
    response = post(made, "/v1/chat/completions", CHAT_BODY)
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "m 1"
    assert response.headers["x-rlft-checkpoint"] == "m"
    assert response.headers["x-rlft-attempts"] == "1"
    meters = made.meters
    assert isinstance(meters, CountingMeters)
    assert (meters.requests, meters.prompt_tokens, meters.completion_tokens) == ({("m", 200): 1}, 3, 2)
    assert made.in_work == 0


def test_a_stream_is_passed_on_and_its_tokens_are_counted_without_being_shown() -> None:
    made = gateway()
    response = post(made, "/v1/chat/completions", CHAT_BODY | {"stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert words_of(response) == "m 1"
    assert "usage" not in response.text
    assert made.meters.completion_tokens == 2  # type: ignore[attr-defined]
    shown = post(
        gateway(), "/v1/chat/completions", CHAT_BODY | {"stream": True, "stream_options": {"include_usage": True}}
    )
    assert '"usage"' in shown.text


def test_models_are_listed_with_how_they_were_asked_in_training() -> None:
    made = gateway(None, route("m", canary="new", percent=5.0))
    card = get(made, "/v1/models").json()["data"][0]
    assert (card["id"], card["object"], card["owned_by"]) == ("m", "model", "rlft")
    assert card["rlft"] == {
        "checkpoint": "m:sft",
        "kind": "policy",
        "prompt": {"system": "Be short.", "template": "Sum up: {input}"},
        "canary": "new",
        "percent": 5.0,
    }
    assert get(made, "/v1/models/m").json() == card
    assert get(made, "/v1/models/none").status_code == 404


def test_scores_of_a_reward_model() -> None:
    response = post(gateway(), "/v1/score", {"model": "rm", "text_1": "q", "text_2": ["a", "bcd"]})
    assert response.json()["data"] == [
        {"index": 0, "object": "score", "score": 1.0},
        {"index": 1, "object": "score", "score": 3.0},
    ]
    assert response.json()["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    # As the replica says that computed them: during a promote some have the new one, and the route still names the old.
    assert response.headers["x-rlft-checkpoint"] == "rm"
    one = post(gateway(), "/v1/score", {"model": "rm", "text_1": "q", "text_2": "four"})
    assert [entry["score"] for entry in one.json()["data"]] == [4.0]


def test_the_best_of_several_by_tournament_or_reward_model() -> None:
    pools = FakePools()
    response = post(gateway(pools), "/v1/chat/completions", CHAT_BODY | {"best_of": 3, "seed": 9})
    (choice,) = response.json()["choices"]
    assert (choice["index"], choice["message"]["content"]) == (0, "m 1 x")  # the third was cut off
    assert pools.asked[0][1]["n"] == 3
    assert pools.asked[1][1]["question"] == "Hello"
    assert pools.asked[1][1]["seed"] == 9
    response = post(gateway(), "/v1/completions", {"model": "m", "prompt": "x", "best_of": 3, "best_of_by": "rm"})
    assert [choice["text"] for choice in response.json()["choices"]] == ["m 1 xx"]
    assert response.json()["usage"]["completion_tokens"] == 6
    streamed = post(gateway(), "/v1/chat/completions", CHAT_BODY | {"best_of": 2, "stream": True})
    assert words_of(streamed) == "m 1 x"


def test_answers_are_cut_where_the_service_says_so() -> None:
    made = gateway(postprocess=PostprocessConfig(max_words=1))
    assert post(made, "/v1/chat/completions", CHAT_BODY).json()["choices"][0]["message"]["content"] == "m"
    assert post(made, "/v1/completions", {"model": "m", "prompt": "x"}).json()["choices"][0]["text"] == "m"
    assert words_of(post(made, "/v1/chat/completions", CHAT_BODY | {"stream": True})) == "m"


# Refusals


@pytest.mark.parametrize(
    "header, said", [(None, "a key is needed"), ("Bearer wrong", "unknown key"), ("Basic x", "unknown key")]
)
def test_without_a_known_key_nothing_is_told(header: str | None, said: str) -> None:
    made = gateway(keys=Keys((KEY,)))
    headers = {} if header is None else {"Authorization": header}
    for response in (
        post(made, "/v1/chat/completions", b"not even JSON", **headers),
        get(made, "/v1/models", **headers),
        get(made, "/admin/models", **headers),
    ):
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert said in response.json()["error"]["message"]
        assert response.json()["error"]["code"] == "invalid_api_key"


def test_a_key_opens_models_and_an_admins_key_what_is_served() -> None:
    made = gateway(keys=Keys((KEY, ADMIN)))
    mine, ops = {"Authorization": f"Bearer {SECRET}"}, {"Authorization": f"Bearer {ADMIN_SECRET}"}
    assert post(made, "/v1/chat/completions", CHAT_BODY, **mine).status_code == 200
    refused = post(made, "/admin/models/m/promote", {"run": "a"}, **mine)
    assert refused.status_code == 403
    assert refused.json()["error"]["message"] == "the key 'alice' may ask models, not change them"
    assert post(made, "/admin/models/m/promote", {"run": "a@4", "percent": 10}, **ops).status_code == 200
    assert post(made, "/admin/models/m/rollback", {}, **ops).status_code == 200
    assert made.control.changes == [("m", "a@4", 10.0), ("m",)]  # type: ignore[attr-defined]
    assert get(made, "/admin/models", **ops).json()["models"][0]["model"] == "m"


def test_without_keys_a_page_of_another_site_changes_nothing() -> None:
    made = gateway()
    refused = post(made, "/admin/models/m/promote", {"run": "a"}, Origin="http://evil.example:8000")
    assert refused.status_code == 403
    assert "pages of other sites may not change what is served" in refused.json()["error"]["message"]
    assert post(made, "/admin/models/m/promote", {"run": "a"}, Origin="http://localhost:8266").status_code == 200
    assert post(made, "/admin/models/m/promote", {"run": "a"}).status_code == 200


def test_health_needs_no_key_and_says_when_nothing_can_be_asked() -> None:
    made = gateway(keys=Keys((KEY,)))
    assert get(made, "/health").json() == {"status": "ok"}
    assert get(made, "/ready").json() == {"ready": True, "draining": False, "without_replica": []}
    asyncio.run(made.drain(0.0))
    assert get(made, "/ready").status_code == 503


@pytest.mark.parametrize(
    "path, body, status, said",
    [
        ("/v1/chat/completions", CHAT_BODY | {"model": "none"}, 404, "there is no model 'none'; there are: m, rm"),
        ("/v1/chat/completions", CHAT_BODY | {"model": "rm"}, 422, "is a reward model: use POST /v1/score"),
        ("/v1/score", {"model": "m", "text_1": "q", "text_2": "a"}, 422, "is a policy model: use POST /v1/chat/"),
        ("/v1/score", {"model": "rm", "text_2": "a"}, 422, "text_1 must be the text that was answered"),
        ("/v1/score", {"model": "rm", "text_1": "q", "text_2": [1]}, 422, "text_2 must be an answer, or a list"),
        ("/v1/score", {"model": "rm", "text_1": "q", "text_2": "too long"}, 422, "9 tokens, and this model reads 8"),
        ("/v1/completions", {"model": "m", "prompt": "too long"}, 400, "maximum context length is 4"),
        ("/v1/completions", {"model": "m"}, 422, "prompt is missing"),
        ("/v1/embeddings", {}, 404, "POST /v1/embeddings: Not Found"),
        ("/v1/models", {}, 405, "POST /v1/models: Method Not Allowed"),
        ("/admin/models/m/promote", {}, 422, "run is missing: RUN[:STAGE][@STEP]"),
        ("/admin/models/m/promote", {"run": "a", "percent": 0}, 422, "percent must be above 0 and at most 100, not 0"),
        ("/admin/models/m/promote", {"run": "a", "percent": True}, 422, "percent must be above 0"),
    ],
)
def test_refusals_have_openais_shape(path: str, body: Any, status: int, said: str) -> None:
    response = post(gateway(), path, body)
    assert response.status_code == status
    error = response.json()["error"]
    assert said in error["message"]
    assert sorted(error) == ["code", "message", "param", "type"]


def test_best_of_by_something_that_is_no_reward_model() -> None:
    response = post(gateway(), "/v1/chat/completions", CHAT_BODY | {"best_of": 2, "best_of_by": "m"})
    assert response.status_code == 422


def test_a_body_is_read_no_further_than_it_may_be_long() -> None:
    made = gateway(limits=RequestLimits(max_body_bytes=100))
    response = post(made, "/v1/completions", {"model": "m", "prompt": "x" * 500})
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "request_too_large"


def test_a_flood_is_told_when_to_come_again() -> None:
    keys = Keys((KEY,))
    made = gateway(keys=keys, allowance=Allowance(requests_per_minute=2))
    mine = {"Authorization": f"Bearer {SECRET}"}
    statuses = [post(made, "/v1/chat/completions", CHAT_BODY, **mine).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    response = post(made, "/v1/chat/completions", CHAT_BODY, **mine)
    assert 25 <= int(response.headers["retry-after"]) <= 30
    assert "the key 'alice' has used up what it may ask in a minute" in response.json()["error"]["message"]
    assert response.json()["error"]["type"] == "rate_limit_error"


def test_more_at_once_than_it_takes_is_refused_and_so_is_a_full_pool() -> None:
    async def talk(client: httpx.AsyncClient) -> list[int]:
        pools.wait = asyncio.Event()
        first = asyncio.ensure_future(client.post("/v1/chat/completions", json=CHAT_BODY | {"stream": True}))
        await asyncio.sleep(0.05)
        second = await client.post("/v1/chat/completions", json=CHAT_BODY)
        pools.wait.set()
        return [(await first).status_code, second.status_code]

    pools = FakePools()
    assert asked(gateway(pools, limits=RequestLimits(max_at_once=1)), talk) == [200, 429]
    full = post(gateway(FakePools(busy=["m"])), "/v1/chat/completions", CHAT_BODY)
    assert (full.status_code, full.headers["retry-after"]) == (429, "1")
    assert "too many requests wait for this model" in full.json()["error"]["message"]


def test_draining_finishes_what_is_in_work_and_takes_no_more() -> None:
    async def talk(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response, int, int]:
        pools.wait = asyncio.Event()
        first = asyncio.ensure_future(client.post("/v1/chat/completions", json=CHAT_BODY | {"stream": True}))
        await asyncio.sleep(0.05)
        impatient = await made.drain(0.1)
        draining = asyncio.ensure_future(made.drain(10.0))
        late = await client.post("/v1/chat/completions", json=CHAT_BODY)
        pools.wait.set()
        return await first, late, impatient, await draining

    pools = FakePools()
    made = gateway(pools)
    first, late, impatient, left = asked(made, talk)
    assert words_of(first) == "m 1"
    assert (late.status_code, late.headers["retry-after"]) == (503, "5")
    assert late.json()["error"]["message"] == "the service is ending; ask another one"
    assert (impatient, left) == (1, 0)


def test_whoever_hangs_up_frees_the_engine() -> None:
    async def talk(client: httpx.AsyncClient) -> None:
        pools.wait = asyncio.Event()
        task = asyncio.ensure_future(client.post("/v1/completions", json={"model": "m", "prompt": "x"}))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.sleep(0.05)

    pools = FakePools()
    made = gateway(pools)
    asked(made, talk)
    assert made.in_work == 0
