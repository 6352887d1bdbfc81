"""A judge behind a service: the real client against a server on this machine that answers, refuses, stumbles or babbles."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlft_core.config.judge import ApiJudgeConfig
from rlft_core.errors import ConfigError, JudgeError
from rlft_core.judging.template import load_template, parse_template
from rlft_core.rewards.given import GivenScores
from rlft_core.types import Completion, Prompt, RolloutGroup, Row
from services.pipeline.judges import key_of
from services.rollout import api_judge
from services.rollout.api_judge import ApiJudge, Bill
from services.rollout.judging import Judging

Reply = tuple[int, dict[str, Any] | str]
TEMPLATE = parse_template(
    "t", {"user": "{context}@{response_a}@{response_b}@", "labels": [" A", " B"], "system": "Judge."}
)


def said(text: str, alternatives: dict[str, float] | None = None) -> Reply:
    """A chat completion; `alternatives` are probabilities of its first token."""
    tokens = [{"token": t, "logprob": math.log(p), "bytes": None} for t, p in (alternatives or {}).items()]
    logprobs = {"content": [{**tokens[0], "top_logprobs": tokens}]} if tokens else None
    message = {"role": "assistant", "content": text}
    return 200, {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message, "logprobs": logprobs}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101},
    }


def longer(body: dict[str, Any]) -> Reply:
    """Prefers the longer answer."""
    a, b = body["messages"][-1]["content"].split("@")[1:3] if "@" in body["messages"][-1]["content"] else ("", "")
    return said("A", {"A": 0.7, " B": 0.2, "The": 0.1}) if len(a) > len(b) else said("B", {" a": 0.1, "B": 0.6})


class Service:
    """`answer` decides; `bodies` is what was asked, `most` how many requests were in work at once."""

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, Any]], Reply] = longer
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most = self.now = 0
        self.pause = 0.0
        self._lock = threading.Lock()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with service._lock:
                    service.bodies.append(body)
                    service.keys.append(self.headers.get("Authorization"))
                    service.now += 1
                    service.most = max(service.most, service.now)
                time.sleep(service.pause)
                code, reply = service.answer(body)
                with service._lock:
                    service.now -= 1
                content = reply.encode() if isinstance(reply, str) else json.dumps(reply).encode()
                self.send_response(code)
                self.send_header("Content-Type", "text/html" if isinstance(reply, str) else "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@pytest.fixture
def service() -> Iterator[Service]:
    found = Service()
    thread = threading.Thread(target=found.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join(10)


def judge(service: Service, tmp_path: Path, template: Any = TEMPLATE, **keys: Any) -> ApiJudge:
    """A judge without the client's own retries, whose pauses would only make the tests wait."""
    given = {"name": "oracle", "url": service.url, "model": "m", "price_in": 2.0, "price_out": 10.0, "patience_s": 5.0}
    config = ApiJudgeConfig.model_validate({"type": "api_judge", **given, **keys})
    judging = Judging("oracle", "m", template, None, config.against, 4, 3, config.max_chars, False, False)
    found = ApiJudge(config, judging, key="secret", cache=tmp_path / "cache" / "replies.sqlite")
    found._client = found._client.with_options(max_retries=0)
    return found


def asked(one: ApiJudge, *texts: str) -> GivenScores:
    """Its scores of a group of texts; without texts, whether it is ready."""
    return used(one, lambda: one.score(group(*texts)) if texts else one.ready())  # type: ignore[no-any-return]


def used(one: ApiJudge, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What comes of work with it; it is closed afterwards."""

    async def whole() -> Any:
        try:
            return await asyncio.wait_for(work(), 30.0)
        finally:
            await one._client.close()

    return asyncio.run(whole())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not condition():
            await asyncio.sleep(0.01)


def group(*texts: str) -> RolloutGroup:
    empty = np.zeros(1, np.float32)
    made = tuple(Completion(empty.astype(np.int32), empty, empty.astype(np.int32), "stop", text) for text in texts)
    return RolloutGroup(Prompt(Row("row-1", "task", "bb"), (1,), len(texts), 0), made)


def scores(found: GivenScores) -> list[float]:
    return [value[0] for value in found.values]  # type: ignore[index]


def test_a_group_is_compared_in_both_orders_and_never_bought_twice(service: Service, tmp_path: Path) -> None:
    one = judge(service, tmp_path)
    found = asked(one, "a", "bbb", "cc")
    assert scores(found) == [0.0, 1.0, 0.5]
    assert len(service.bodies) == 2 * 3
    assert service.bodies[0]["temperature"] == 0.0
    assert service.bodies[0]["logprobs"] is True
    assert set(service.keys) == {"Bearer secret"}
    shown = found.values[1][1]  # type: ignore[index]
    assert shown["agreement"] == 1.0
    assert shown["asked"] == pytest.approx(2.0)
    assert shown["cost"] == pytest.approx(6 * (100 * 2.0 + 10.0) / 1e6 / 3)
    again = asked(judge(service, tmp_path), "a", "bbb", "cc")  # another process, the same file
    assert scores(again) == [0.0, 1.0, 0.5]
    assert len(service.bodies) == 6
    assert again.values[0][1]["cached"] == pytest.approx(2.0)  # type: ignore[index]
    assert again.values[0][1]["cost"] == 0.0  # type: ignore[index]


def test_what_is_asked_several_times_at_once_is_bought_once(service: Service, tmp_path: Path) -> None:
    one = judge(service, tmp_path)

    async def both() -> list[GivenScores]:
        return list(await asyncio.gather(*(one.score(group("a", "bbb", "cc")) for _ in range(2))))

    first, second = used(one, both)
    assert scores(first) == scores(second) == [0.0, 1.0, 0.5]
    assert len(service.bodies) == 6
    paid = [[found.values[0][1][name] for name in ("asked", "cached")] for found in (first, second)]
    assert paid == [[pytest.approx(2.0), 0.0], [0.0, pytest.approx(2.0)]]


@pytest.mark.parametrize("cancelled", [0, 1])
def test_who_is_cancelled_takes_the_reply_from_nobody(service: Service, tmp_path: Path, cancelled: int) -> None:
    one, gate = judge(service, tmp_path), threading.Event()
    service.answer = lambda body: longer(body) if gate.wait(10.0) else said("too late")

    async def work() -> GivenScores:
        tasks = [asyncio.ensure_future(one.score(group("a", "bbb"))) for _ in range(2)]
        await until(lambda: len(service.bodies) == 2)
        tasks[cancelled].cancel()
        await asyncio.sleep(0)
        gate.set()
        found = await tasks[1 - cancelled]
        assert tasks[cancelled].cancelled()
        return found

    assert scores(used(one, work)) == [0.0, 1.0]
    assert len(service.bodies) == 2


def test_what_nobody_waits_for_any_more_is_not_bought_and_can_be_asked_again(service: Service, tmp_path: Path) -> None:
    one, gate = judge(service, tmp_path, max_concurrent=1), threading.Event()
    service.answer = lambda body: longer(body) if gate.wait(10.0) else said("too late")

    async def work() -> GivenScores:
        alone = asyncio.ensure_future(one.score(group("a", "bbb")))
        await until(lambda: len(service.bodies) == 1)
        alone.cancel()
        await asyncio.gather(alone, return_exceptions=True)
        gate.set()
        return await one.score(group("a", "bbb"))

    assert scores(used(one, work)) == [0.0, 1.0]
    assert len(service.bodies) == 1 + 2


def test_nobody_joins_a_request_that_is_being_cancelled(service: Service, tmp_path: Path) -> None:
    one, prompt = judge(service, tmp_path), ({"role": "user", "content": "@a@bbb@"},)
    gate = threading.Event()
    service.answer = lambda body: longer(body) if gate.wait(10.0) else said("too late")

    async def stubborn() -> list[float]:
        try:
            return await one._chances(prompt, ("A", "B"), Bill())
        except asyncio.CancelledError:  # at once: the request itself has not heard of it yet
            return await one._chances(prompt, ("A", "B"), Bill())

    async def work() -> list[float]:
        asking = asyncio.ensure_future(stubborn())
        await until(lambda: len(service.bodies) == 1)
        asking.cancel()
        await asyncio.sleep(0)
        gate.set()
        return await asking

    assert used(one, work) == pytest.approx([0.1, 0.6], abs=1e-9)


def test_a_shared_request_that_fails_does_so_for_all_and_is_forgotten(service: Service, tmp_path: Path) -> None:
    one = judge(service, tmp_path)

    async def work() -> GivenScores:
        service.answer = lambda body: (401, {"error": {"message": "bad key"}})
        tasks = [one.score(group("a", "bbb")) for _ in range(2)]
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(error, JudgeError)
            assert "refused" in str(error)
        service.answer = longer
        return await one.score(group("a", "bbb"))

    assert scores(used(one, work)) == [0.0, 1.0]


def test_when_one_question_of_a_group_fails_the_others_are_not_bought(service: Service, tmp_path: Path) -> None:
    one = judge(service, tmp_path, max_concurrent=1)
    replies = iter([said("perhaps")])
    service.answer = lambda body: next(replies, None) or longer(body)

    async def work() -> None:
        with pytest.raises(JudgeError, match="said 'perhaps'"):
            await one.score(group("a", "bb", "ccc", "dddd"))
        assert one._calls == {}
        await one.score(group("x", "yy"))

    used(one, work)
    assert len(service.bodies) in (1 + 2, 2 + 2)  # of twelve questions at most the next one was on its way


def test_grades_by_a_service(service: Service, tmp_path: Path) -> None:
    service.answer = lambda body: said("4", {"4": 0.5, "5": 0.5})
    found = asked(judge(service, tmp_path, load_template("grade-answer")), "a", "b")
    assert scores(found) == pytest.approx([3.5 / 4] * 2)


def test_a_service_without_logprobs_names_the_label(service: Service, tmp_path: Path) -> None:
    service.answer = lambda body: said(longer(body)[1]["choices"][0]["message"]["content"] + ".")
    found = asked(judge(service, tmp_path, logprobs=False), "a", "bbb")
    assert scores(found) == [0.0, 1.0]
    assert "logprobs" not in service.bodies[0]


def test_nonsense_fails_the_group_by_name_and_is_not_kept(service: Service, tmp_path: Path) -> None:
    service.answer = lambda body: said("As a language model, I cannot")
    with pytest.raises(JudgeError, match=r"judge 'oracle' \(m at http.*one of A, B, and said 'As a language model"):
        asked(judge(service, tmp_path), "a", "bbb")
    service.answer = longer
    assert scores(asked(judge(service, tmp_path), "a", "bbb")) == [0.0, 1.0]


def test_a_busy_service_is_asked_again(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_judge, "_FIRST_PAUSE_S", 0.01)
    errors = iter([503, 429, 500, 408, 429, 201])

    def stumbling(body: dict[str, Any]) -> Reply:
        code = next(errors, 200)
        return longer(body) if code == 200 else (code, {"error": {"message": "busy"}})

    service.answer = stumbling  # with success, and nothing in it, too
    found = asked(judge(service, tmp_path), "a", "bbb")
    assert scores(found) == [0.0, 1.0]
    assert found.values[0][1]["asked"] == pytest.approx(1.0)  # type: ignore[index]
    assert len(service.bodies) == 2 + 6


def test_one_that_stays_down_fails_by_name(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_judge, "_FIRST_PAUSE_S", 0.01)
    service.answer = lambda body: (503, {"error": {"message": "asleep"}})
    with pytest.raises(JudgeError, match=r"judge 'oracle' .* did not answer for 0\.2 s \(patience_s\).*asleep"):
        asked(judge(service, tmp_path, patience_s=0.2))
    gone = judge(service, tmp_path, patience_s=0.2, url="http://127.0.0.1:9/v1")
    with pytest.raises(JudgeError, match="did not answer for"):
        asked(gone)


def test_patience_begins_with_the_first_failure(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that takes longer than the patience and comes to nothing is made again."""
    monkeypatch.setattr(api_judge, "_FIRST_PAUSE_S", 0.01)
    service.pause = 0.5
    service.answer = lambda body: longer(body) if len(service.bodies) > 1 else (503, {"error": {"message": "busy"}})
    assert asked(judge(service, tmp_path, patience_s=0.3))
    assert len(service.bodies) == 2


@pytest.mark.parametrize("failing", [(11,), (0, 12)])
def test_patience_does_not_count_the_wait_for_a_free_slot(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: tuple[int, ...]
) -> None:
    """One slot, twelve requests of 0.1 s: the last of them is busy once, or the first one again behind all others."""
    monkeypatch.setattr(api_judge, "_FIRST_PAUSE_S", 0.01)
    service.pause = 0.1

    def stumbling(body: dict[str, Any]) -> Reply:
        return (429, {"error": {"message": "busy"}}) if len(service.bodies) - 1 in failing else longer(body)

    service.answer = stumbling
    found = asked(judge(service, tmp_path, max_concurrent=1, patience_s=1.0), "a", "bb", "ccc", "dddd")
    assert scores(found) == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])
    assert len(service.bodies) == 12 + len(failing)
    if len(failing) == 2:
        assert service.bodies[0] == service.bodies[12] == service.bodies[13]


def test_one_that_refuses_is_not_asked_again(service: Service, tmp_path: Path) -> None:
    service.answer = lambda body: (401, {"error": {"message": "bad key"}})
    with pytest.raises(JudgeError, match=r"refused: .*bad key.*; mend url, model or key_env"):
        asked(judge(service, tmp_path))
    assert len(service.bodies) == 1
    service.answer = lambda body: (400, {"error": {"message": "no logprobs here"}})
    with pytest.raises(JudgeError, match=r"no logprobs here.*; if it gives no log-probs set logprobs: false, if texts"):
        asked(judge(service, tmp_path))
    service.answer = lambda body: (200, "<html>welcome</html>")
    with pytest.raises(JudgeError, match=r"no chat completion: '<html>welcome</html>'; url is to be .*/v1"):
        asked(judge(service, tmp_path))
    assert len(service.bodies) == 3


def test_no_more_requests_at_once_than_allowed(service: Service, tmp_path: Path) -> None:
    service.pause = 0.05
    asked(judge(service, tmp_path, max_concurrent=3), "a", "bb", "ccc", "dddd")
    assert len(service.bodies) == 12
    assert 2 <= service.most <= 3


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ApiJudgeConfig(url="http://x/v1", model="m", key_env="NO_SUCH_KEY")
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ConfigError, match="the environment has no NO_SUCH_KEY, which key_env names"):
        key_of(config)
    monkeypatch.setenv("NO_SUCH_KEY", "k")
    assert key_of(config) == "k"
