"""`rlft serve` as a person runs it, asked by the official client: the protocol, promotes under load, a killed replica, drain.

One service for all tests of this file, in their order: an engine takes half a minute to start.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from rlft_core.config.rewards import RewardModelConfig
from rlft_core.rewards.protocol import Sample
from rlft_core.rewards.reward_model import RewardModelReward
from rlft_core.types import Row
from tests.integration.serving_client import ADMIN, ADMIN_SECRET, HELLO, KEY, SECRET, Load, Running, in_thread, served
from tests.integration.serving_support import add_reward_model, make_run
from tests.integration.support import kill

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Model `m`, with two engines, and its reward model `rm`."""
    base = tmp_path_factory.mktemp("serving")
    runs_dir = base / "runs"
    runs_dir.mkdir()
    add_reward_model(make_run(runs_dir, "first", seed=0))
    make_run(runs_dir, "second", seed=1)
    (base / "keys.txt").write_text(f"# two people\n{KEY.entry}\n{ADMIN.entry}\n")
    asked = ["first", "first:reward_model", "--name", "m", "--name", "rm", "--replicas", "2", "--kv-cache-mb", "32"]
    with served(base, *asked, "--keys", "keys.txt", "--max-at-once", "24", "--idle", "600") as made:
        yield made


def test_the_official_client_works_unchanged(running: Running) -> None:
    client = running.client()
    assert sorted(model.id for model in client.models.list()) == ["m", "rm"]
    chat = client.chat.completions.create(
        model="m", messages=HELLO, max_tokens=6, n=2, seed=5, logprobs=True, top_logprobs=2, temperature=1.0
    )
    assert [choice.index for choice in chat.choices] == [0, 1]
    assert chat.usage is not None
    assert chat.usage.completion_tokens == 12
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + 12
    assert chat.choices[0].finish_reason == "length"
    logprobs = chat.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 6
    assert all(token.logprob <= 0 for token in logprobs.content)
    again = client.chat.completions.create(model="m", messages=HELLO, max_tokens=6, n=2, seed=5, temperature=1.0)
    assert [c.message.content for c in again.choices] == [c.message.content for c in chat.choices]
    text = client.completions.create(model="m", prompt="a small", max_tokens=8, temperature=0, logprobs=1)
    assert text.object == "text_completion"
    whole = text.choices[0].text
    stop = next(piece for piece in whole[2:])
    stopped = client.completions.create(model="m", prompt="a small", max_tokens=8, temperature=0, stop=[stop])
    assert stopped.choices[0].text == whole[: whole.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_streams_give_the_same_text_piece_by_piece(running: Running) -> None:
    client = running.client()
    asked: dict[str, Any] = {"model": "m", "messages": HELLO, "max_tokens": 10, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    events = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    pieces = [event.choices[0].delta.content or "" for event in events if event.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len(pieces) > 5
    assert events[-1].usage == whole.usage
    assert all(event.choices for event in client.chat.completions.create(**asked, stream=True))
    body = {"model": "m", "prompt": "a", "max_tokens": 3, "stream": True}
    with httpx.stream(
        "POST", f"{running.url}/v1/completions", json=body, headers={"Authorization": f"Bearer {SECRET}"}, timeout=60
    ) as raw:
        lines = [line for line in raw.iter_lines() if line]
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert lines[-1] == "data: [DONE]"


def test_refusals_are_the_clients_own_errors(running: Running) -> None:
    client = running.client()
    with pytest.raises(openai.AuthenticationError, match=r"unknown key"):
        running.client().with_options(api_key="rlft-wrong").chat.completions.create(model="m", messages=HELLO)
    with pytest.raises(openai.NotFoundError, match=r"there is no model 'none'; there are: m, rm"):
        client.chat.completions.create(model="none", messages=HELLO)
    with pytest.raises(openai.UnprocessableEntityError, match=r"n must be a whole number from 1 to 16"):
        client.chat.completions.create(model="m", messages=HELLO, n=100)
    with pytest.raises(openai.UnprocessableEntityError, match=r"temperature"):
        client.chat.completions.create(model="m", messages=HELLO, temperature="hot")  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match=r"context length") as caught:
        client.completions.create(model="m", prompt="file " * 400)
    assert caught.value.type == "invalid_request_error"
    with pytest.raises(openai.UnprocessableEntityError, match=r"is a reward model: use POST /v1/score"):
        client.chat.completions.create(model="rm", messages=HELLO)
    with pytest.raises(openai.PermissionDeniedError, match=r"may ask models, not change them"):
        client.post("/../admin/models/m/rollback", cast_to=object)


def test_a_flood_is_told_when_to_come_again(running: Running) -> None:
    async def flood() -> list[openai.RateLimitError]:
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=SECRET, max_retries=0) as client:
            asked = [
                client.completions.create(model="m", prompt="a", max_tokens=100, extra_body={"ignore_eos": True})
                for _ in range(48)
            ]
            found = await asyncio.gather(*asked, return_exceptions=True)
        return [one for one in found if isinstance(one, openai.RateLimitError)]

    refused = asyncio.run(flood())
    assert refused
    assert refused[0].response.headers["retry-after"] == "1"
    assert "24 requests are in work" in refused[0].message


def test_the_best_of_several_and_scores(running: Running) -> None:
    client = running.client()
    best = client.chat.completions.create(
        model="m", messages=HELLO, max_tokens=5, temperature=1.0, extra_body={"best_of": 3}
    )
    assert len(best.choices) == 1
    assert best.usage is not None
    assert best.usage.completion_tokens >= 3
    by_model = client.completions.create(
        model="m", prompt="a", max_tokens=5, seed=3, best_of=4, extra_body={"best_of_by": "rm"}
    )
    drawn = client.completions.create(model="m", prompt="a", max_tokens=5, seed=3, n=4)
    texts = [choice.text for choice in drawn.choices]
    headers = {"Authorization": f"Bearer {SECRET}"}
    body = {"model": "rm", "text_1": "a", "text_2": texts}
    scored = httpx.post(f"{running.url}/v1/score", json=body, headers=headers, timeout=60).json()
    scores = [entry["score"] for entry in scored["data"]]
    assert by_model.choices[0].text == texts[scores.index(max(scores))]
    folder = str(running.runs_dir / "first" / "stages" / "reward_model" / "model")
    reward = RewardModelReward.from_config(RewardModelConfig(model=folder))
    nothing: Any = __import__("numpy").zeros(0, "int32")
    alone = reward([Sample(Row("a", "a", ""), text, nothing, "stop") for text in texts])
    assert scores == pytest.approx(alone, abs=1e-3)


def test_a_promote_under_load_fails_no_request_and_mixes_no_answer(running: Running) -> None:
    async def change() -> None:
        await asyncio.sleep(2.0)
        assert await in_thread("promote", "second", "--model", "m", made=running) == "m: second:sft (2 replicas)\n"
        await asyncio.sleep(1.0)
        told = await asyncio.gather(
            in_thread("promote", "first@4", "--model", "m", made=running),
            asyncio.to_thread(promoted_meanwhile, running),
        )
        assert told[0] == "m: first:sft@4 (2 replicas)\n"
        await asyncio.sleep(1.0)

    load = Load(running.url)
    asyncio.run(load.run(change))
    assert load.failures == []
    assert {checkpoint for checkpoint, _ in load.answers} == {"first:sft", "second:sft", "first:sft@4"}
    # Greedy answers: one text for each checkpoint, so none was begun with one and ended with another.
    assert len(load.answers) == 3, load.answers
    assert [entry["before"] for entry in running.overview() if entry["model"] == "m"] == [["first:sft", "second:sft"]]
    assert running.rlft("rollback", "--model", "m") == "m: second:sft (2 replicas)\n"
    assert running.rlft("rollback", "--model", "m") == "m: first:sft (2 replicas)\n"
    state = json.loads((running.runs_dir / ".serving" / "state.json").read_text())
    assert [(one["name"], one["current"]["label"]) for one in state["models"]] == [
        ("m", "first:sft"),
        ("rm", "first:reward_model"),
    ]


def promoted_meanwhile(made: Running) -> None:
    """Promotes that come while one is under way are refused with 409."""
    headers = {"Authorization": f"Bearer {ADMIN_SECRET}"}
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        shown = [entry for entry in made.overview() if entry["model"] == "m"]
        if shown[0]["changing"] is not None:
            answer = httpx.post(f"{made.url}/admin/models/m/rollback", headers=headers, json={}, timeout=60)
            if answer.status_code == 409:
                assert "just being changed to first@4" in answer.json()["error"]["message"]
                return
        time.sleep(0.02)
    raise AssertionError("no change was under way")


def test_a_killed_replica_costs_no_request(running: Running) -> None:
    async def murder() -> None:
        await asyncio.sleep(1.0)
        (shown,) = [entry for entry in running.overview() if entry["model"] == "m"]
        kill(shown["replicas"][0]["pid"])
        await asyncio.sleep(4.0)

    load = Load(running.url)
    asyncio.run(load.run(murder))
    # Streams too: another replica goes on with them.
    assert load.failures == []
    assert {checkpoint for checkpoint, _ in load.answers} == {"first:sft"}


def test_a_canary_gets_its_share_until_it_is_rolled_back(running: Running) -> None:
    told = running.rlft("promote", "second", "--model", "m", "--percent", "50")
    assert told.startswith("m: first:sft, and second:sft for 50 % of the requests")
    client = running.client()

    def checkpoints(count: int) -> Counter[str]:
        asked = (
            client.chat.completions.with_raw_response.create(model="m", messages=HELLO, max_tokens=1)
            for _ in range(count)
        )
        return Counter(raw.headers["x-rlft-checkpoint"] for raw in asked)

    time.sleep(1.0)
    assert checkpoints(10) == {"first:sft": 5, "second:sft": 5}
    running.rlft("rollback", "--model", "m")
    time.sleep(1.0)
    assert checkpoints(4) == {"first:sft": 4}


def test_a_service_that_is_told_to_end_finishes_what_is_in_work(running: Running) -> None:
    stream = running.client().completions.create(
        model="m", prompt="a", max_tokens=200, stream=True, extra_body={"ignore_eos": True}
    )
    first = next(iter(stream))
    running.process.send_signal(signal.SIGTERM)
    rest = [event.choices[0] for event in stream]
    assert first.choices[0].text is not None
    assert rest[-1].finish_reason == "length"
    assert running.process.wait(90) == 0
    assert "Ending: requests in work are finished first." in running.log.read_text()
