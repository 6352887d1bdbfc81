"""The HTTP side with scripted replicas: keys, limits, streams, lost replicas, canaries, the best of several, and draining."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import httpx
import pytest

from rlft_core.config.postprocess import PostprocessConfig
from rlft_core.serving.requests import RequestLimits
from rlft_core.serving.routing import Allowance
from rlft_core.serving.types import Checkpoint
from services.keys import Keys, new_key
from services.serving.completions import Completions
from services.serving.fake_pools import FakePools
from services.serving.gateway import Gateway
from services.serving.meters import CountingMeters
from services.serving.routes import Reply, Route

T = TypeVar("T")
SECRET, KEY = new_key("alice")
ADMIN_SECRET, ADMIN = new_key("ops", admin=True)
CHAT_BODY = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


class ScriptedControl:
    """Routes that are given; changes are written down."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.given = list(routes)
        self.changes: list[tuple[Any, ...]] = []
        self.reply = Reply(200, {"model": "m"})

    async def routes(self) -> Sequence[Route]:
        return self.given

    async def overview(self) -> Sequence[Mapping[str, Any]]:
        return [{"model": route.model, "replicas": [{"current": True}]} for route in self.given]

    async def promote(self, name: str, spec: str, percent: float) -> Reply:
        self.changes.append((name, spec, percent))
        return self.reply

    async def rollback(self, name: str) -> Reply:
        self.changes.append((name,))
        return self.reply


def route(model: str, kind: str = "policy", canary: str | None = None, percent: float = 0.0) -> Route:
    def checkpoint(label: str) -> Checkpoint:
        return Checkpoint(label, "folder", "policy", 256, "bfloat16", system="Be short.", template="Sum up: {input}")

    other = None if canary is None else checkpoint(canary)
    return Route(model, kind, model, f"{model}#canary", checkpoint(f"{model}:sft"), other, percent)


def gateway(
    pools: FakePools | None = None,
    *routes: Route,
    keys: Keys | None = None,
    limits: RequestLimits | None = None,
    allowance: Allowance | None = None,
    postprocess: PostprocessConfig | None = None,
    deadline_s: float = 5.0,
) -> Gateway:
    meters, allowed = CountingMeters(), allowance or Allowance()

    def counted(key: str, prompt: int, completion: int) -> None:
        meters.tokens(prompt, completion)
        allowed.take_tokens(key, prompt + completion, asyncio.get_running_loop().time())

    completions = Completions(pools or FakePools(), deadline_s, postprocess, counted)
    control = ScriptedControl(routes or [route("m"), route("rm", "reward")])
    return Gateway(completions, control, keys or Keys(), limits or RequestLimits(), allowed, meters)


def asked(made: Gateway, talk: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
    async def whole() -> T:
        await made.refresh()
        transport = httpx.ASGITransport(app=made.app(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await asyncio.wait_for(talk(client), 30.0)

    return asyncio.run(whole())


def post(made: Gateway, path: str, body: Any, **headers: str) -> httpx.Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asked(made, lambda client: client.post(path, content=raw, headers=headers))


def get(made: Gateway, path: str, **headers: str) -> httpx.Response:
    return asked(made, lambda client: client.get(path, headers=headers))


def words_of(response: httpx.Response) -> str:
    """The text of a streamed chat, whose last event must be [DONE]."""
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    return "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])


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
