"""The HTTP side when replicas are lost, with scripted ones: asking again, streams that go on elsewhere, canaries."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from services.serving.fake_pools import FakePools
from tests.unit.serving.gateways import CHAT_BODY, asked, gateway, post, route, words_of

# Lost replicas


def test_a_request_of_a_lost_replica_is_asked_again() -> None:
    pools = FakePools({"m": [0, 1]})
    made = gateway(pools)
    response = post(made, "/v1/chat/completions", CHAT_BODY)
    assert (response.status_code, response.headers["x-rlft-attempts"]) == (200, "3")
    assert [pool for pool, _ in pools.asked] == ["m", "m", "m"]
    assert made.meters.num_retries == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("lost_after", [0, 1, 2])
def test_a_stream_is_asked_again_until_its_first_token_is_sent(lost_after: int) -> None:
    response = post(gateway(FakePools({"m": [lost_after]})), "/v1/chat/completions", CHAT_BODY | {"stream": True})
    assert words_of(response).split()[0] == "m"
    assert response.headers["x-rlft-attempts"] == "2"
    assert "error" not in response.text


def test_a_stream_that_is_lost_later_goes_on_elsewhere() -> None:
    pools = FakePools({"m": [3]})
    made = gateway(pools)
    body = CHAT_BODY | {"stream": True, "max_tokens": 9, "stream_options": {"include_usage": True}}
    response = post(made, "/v1/chat/completions", body)
    assert words_of(response) == "m and on"
    events = [json.loads(line.removeprefix("data: ")) for line in response.text.strip().split("\n\n")[:-1]]
    assert {event["id"] for event in events} == {"id-1"}
    assert [event["choices"][0]["delta"].get("role") for event in events[:-1]] == ["assistant", None, None, None]
    assert events[-1]["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    rest = pools.asked[1][1]
    assert rest["messages"] == [*CHAT_BODY["messages"], {"role": "assistant", "content": "m"}]  # type: ignore[misc]
    assert (rest["continue_final_message"], rest["add_generation_prompt"], rest["max_tokens"]) == (True, False, 8)
    assert made.meters.completion_tokens == 3  # type: ignore[attr-defined]


def test_a_stream_does_not_go_on_with_another_checkpoint() -> None:
    made = gateway(FakePools({"m#canary": [3, 0]}), route("m", canary="new", percent=100.0))
    response = post(made, "/v1/chat/completions", CHAT_BODY | {"stream": True})
    assert "replica_lost" in response.text.strip().split("\n\n")[-1]


def test_a_streamed_text_goes_on_too() -> None:
    pools = FakePools({"m": [2]})
    response = post(gateway(pools), "/v1/completions", {"model": "m", "prompt": "go on ", "stream": True})
    events = [json.loads(line.removeprefix("data: ")) for line in response.text.strip().split("\n\n")[:-1]]
    assert [event["choices"][0]["text"] for event in events] == ["m", " and", " on"]
    assert (pools.asked[1][1]["prompt"], pools.asked[1][1]["max_tokens"]) == ("go on m", 15)


@pytest.mark.parametrize("extra", [{"logprobs": True}, {"n": 2}, {"max_tokens": 1}])
def test_a_stream_that_cannot_go_on_says_so_where_clients_look(extra: dict[str, Any]) -> None:
    body = CHAT_BODY | {"stream": True} | extra
    response = post(gateway(FakePools({"m": [3]})), "/v1/chat/completions", body)
    assert response.status_code == 200
    last = json.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "replica_lost"
    assert "the replica that wrote this answer was lost" in last["error"]["message"]


def test_a_judge_and_a_reward_model_are_asked_again_too() -> None:
    assert post(gateway(FakePools({"rm": [0]})), "/v1/score", {"model": "rm", "text_1": "q", "text_2": "a"}).is_success
    lost_in_the_tournament = FakePools()
    lost_in_the_tournament._losses = {"rm": [0]}
    body = CHAT_BODY | {"best_of": 2, "best_of_by": "rm"}
    assert post(gateway(lost_in_the_tournament), "/v1/chat/completions", body).is_success


SCORE_BODY = {"model": "rm", "text_1": "q", "text_2": "a"}


def test_attempts_at_a_score_share_one_deadline() -> None:
    async def talk(client: httpx.AsyncClient) -> httpx.Response:
        pools.wait = asyncio.Event()
        return await client.post("/v1/score", json=SCORE_BODY)

    pools = FakePools({"rm": [0]})
    response = asked(gateway(pools, deadline_s=1.5), talk)
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "no answer within 1.5 s; ask for less, or try again"
    assert len(pools.asked) == 2  # the first was lost, and the second had what was left


def test_a_score_is_not_asked_again_beyond_its_deadline() -> None:
    pools = FakePools({"rm": [0] * 100})
    response = post(gateway(pools, deadline_s=0.3), "/v1/score", SCORE_BODY)
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "no replica of this model answers; try again"
    assert len(pools.asked) == 1


def test_when_nobody_answers_it_ends() -> None:
    made = gateway(FakePools({"m": [0] * 100}), deadline_s=0.3)
    response = post(made, "/v1/chat/completions", CHAT_BODY)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"
    assert response.json()["error"]["message"] == "no replica of this model answers; try again"


def test_a_request_that_kills_engines_is_not_passed_on_to_all_of_them() -> None:
    pools = FakePools()
    response = post(gateway(pools), "/v1/completions", {"model": "m", "prompt": "deadly"})
    assert response.status_code == 500
    assert response.json()["error"]["message"] == (
        "3 engines died while they worked on this request; it is not asked again"
    )
    assert len(pools.asked) == 3


def test_an_answer_that_does_not_begin_is_given_up() -> None:
    async def talk(client: httpx.AsyncClient) -> httpx.Response:
        pools.wait = asyncio.Event()
        return await client.post("/v1/chat/completions", json=CHAT_BODY | {"stream": True})

    pools = FakePools()
    response = asked(gateway(pools, deadline_s=0.2), talk)
    assert response.status_code == 503
    assert "no answer within 0.2 s; ask for less, or try again" in response.json()["error"]["message"]


# Canaries


def test_a_canary_gets_its_share_and_a_user_stays_with_one_model() -> None:
    async def talk(client: httpx.AsyncClient) -> list[str]:
        found = [await client.post("/v1/chat/completions", json=CHAT_BODY) for _ in range(20)]
        return [response.headers["x-rlft-checkpoint"] for response in found]

    found = asked(gateway(None, route("m", canary="new", percent=25.0)), talk)
    assert found.count("m#canary") == 5
    made = gateway(None, route("m", canary="new", percent=50.0))
    same = [
        post(made, "/v1/chat/completions", CHAT_BODY | {"user": "u"}).headers["x-rlft-checkpoint"] for _ in range(6)
    ]
    assert len(set(same)) == 1


def test_what_a_canary_loses_the_others_answer() -> None:
    made = gateway(FakePools({"m#canary": [0] * 9}), route("m", canary="new", percent=100.0))
    response = post(made, "/v1/chat/completions", CHAT_BODY)
    assert (response.status_code, response.headers["x-rlft-checkpoint"]) == (200, "m")
