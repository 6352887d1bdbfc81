"""Requests for completions and scores: which pool answers, the best of several, and what is counted.

asked ─▶ route, canary? ─▶ relay ─▶ events as they come
                             └─▶ a whole answer ─▶ best of n ─▶ cut ─▶ JSON, or events
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import uuid4

from rlft_core.config.postprocess import PostprocessConfig
from rlft_core.errors import UserError
from rlft_core.serving.requests import SCORE, TOURNAMENT, Asked, Refused, question_of
from rlft_core.serving.routing import to_canary
from services.serving.answers import DONE, as_events, cut, only_choice, reshaped_error, texts_of, usage_in
from services.serving.relay import (
    PoolBusy,
    Pools,
    Relayed,
    ReplicaLost,
    busy,
    late,
    lost_event,
    relay,
    unavailable,
    whole,
)
from services.serving.resume import Sent
from services.serving.routes import Route

T = TypeVar("T")
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back: JSON `content`, or `events` of a stream."""

    status: int
    content: Mapping[str, Any] | None = None
    events: AsyncIterator[bytes] | None = None
    checkpoint: str = ""
    num_attempts: int = 1


@dataclass(slots=True)
class Completions:
    """Answers requests by the routes that it is given; `counted` is told (model, prompt tokens, completion tokens)."""

    pools: Pools
    deadline_s: float
    postprocess: PostprocessConfig | None
    counted: Callable[[str, int, int], None]
    routes: Mapping[str, Route] = field(default_factory=dict)
    _numbers: Counter[str] = field(default_factory=Counter)

    async def answer(self, asked: Asked, key: str) -> Answer:
        """Raises Refused."""
        route = self._route(asked.model, "reward" if asked.path == SCORE else "policy")
        if asked.path == SCORE:
            return await self._score(asked, route)
        order = self._order(route, asked.user)
        if asked.best_of > 1 or self.postprocess is not None:
            return await self._whole(asked, order, route, key)
        return await self._relayed(asked, order, key)

    def _route(self, model: str, kind: str) -> Route:
        route = self.routes.get(model)
        if route is None:
            there = ", ".join(self.routes) or "none"
            told = f"there is no model '{model}'; there are: {there}"
            raise Refused(404, told, code="model_not_found", param="model")
        if route.kind != kind:
            way = "POST /v1/score" if route.kind == "reward" else "POST /v1/chat/completions"
            raise Refused(422, f"model '{model}' is a {route.kind} model: use {way}", code="wrong_kind", param="model")
        return route

    def _order(self, route: Route, user: str | None) -> tuple[str, ...]:
        """The pools that are asked, one after the other: what a canary loses, the others answer."""
        if route.canary is None:
            return (route.pool,)
        number = self._numbers[route.model]
        self._numbers[route.model] += 1
        return (route.canary_pool, route.pool) if to_canary(route.percent, number, user) else (route.pool,)

    async def _relayed(self, asked: Asked, order: Sequence[str], key: str) -> Answer:
        body, wants_usage = dict(asked.body), True
        if asked.stream:
            options = dict(body.get("stream_options") or {})
            wants_usage = bool(options.get("include_usage"))
            body["stream_options"] = options | {"include_usage": True}  # so that tokens are counted
        relayed = await self._ask(asked, order, body, stream=asked.stream)
        if asked.stream and relayed.head.status == 200:
            events = self._events(asked, order, body, relayed, key, wants_usage)
            return Answer(200, None, events, relayed.head.checkpoint, relayed.num_attempts)
        content = await whole(relayed)
        if relayed.head.status != 200:
            status, error = reshaped_error(relayed.head.status, content)
            return Answer(status, error, None, relayed.head.checkpoint, relayed.num_attempts)
        answer = json.loads(content)
        self._count(key, answer.get("usage"))
        return Answer(200, answer, None, relayed.head.checkpoint, relayed.num_attempts)

    async def _events(
        self, asked: Asked, order: Sequence[str], body: Mapping[str, Any], relayed: Relayed, key: str, wants_usage: bool
    ) -> AsyncIterator[bytes]:
        """The events of a stream. When its replica is lost another one goes on, where that can be done."""
        sent = Sent()
        async with aclosing(self._joined(asked, order, body, relayed, sent)) as events:
            async for event in events:
                usage = usage_in(event)
                if usage is not None:
                    self._count(key, usage)
                if usage is None or wants_usage:
                    yield event

    async def _joined(
        self, asked: Asked, order: Sequence[str], body: Mapping[str, Any], relayed: Relayed, sent: Sent
    ) -> AsyncGenerator[bytes]:
        pieces, again = relayed.pieces, False
        while True:
            try:
                async with aclosing(pieces) as open_pieces:  # type: ignore[type-var]
                    async for event in open_pieces:
                        shown = sent.joined(event) if again else event
                        if shown is not None:
                            sent.take(shown)
                            yield shown
                return
            except (ReplicaLost, PoolBusy):
                rest = sent.rest_of(asked.path, body)
            if sent.finished:
                yield DONE
                return
            try:
                if rest is None:
                    break
                going_on = await self._ask(asked, order, rest, stream=True)
            except Refused:
                break
            if going_on.head.status != 200 or going_on.head.checkpoint != relayed.head.checkpoint:
                break  # an answer is one checkpoint's, or ends
            pieces, again = going_on.pieces, True
        yield lost_event()

    async def _whole(self, asked: Asked, order: Sequence[str], route: Route, key: str) -> Answer:
        """An answer that is not sent before all of it is there."""
        if asked.best_of > 1 and asked.best_of_by != TOURNAMENT:
            self._route(asked.best_of_by, "reward")
        options = asked.body.get("stream_options") or {}
        body = {k: v for k, v in asked.body.items() if k not in ("stream", "stream_options")}
        if asked.best_of > 1:
            body["n"] = asked.best_of
        relayed = await self._ask(asked, order, body, stream=False)
        content = await whole(relayed)
        if relayed.head.status != 200:
            status, error = reshaped_error(relayed.head.status, content)
            return Answer(status, error, None, relayed.head.checkpoint, relayed.num_attempts)
        answer = json.loads(content)
        self._count(key, answer.get("usage"))
        if asked.best_of > 1:
            answer = only_choice(answer, await self._best(asked, relayed.pool, texts_of(asked.path, answer)))
        if self.postprocess is not None:
            answer = cut(asked.path, answer, self.postprocess)
        if not asked.stream:
            return Answer(200, answer, None, relayed.head.checkpoint, relayed.num_attempts)
        events = as_events(asked.path, answer, with_usage=bool(options.get("include_usage")))
        return Answer(200, None, _each(events), relayed.head.checkpoint, relayed.num_attempts)

    async def _best(self, asked: Asked, pool: str, answers: Sequence[tuple[str, bool]]) -> int:
        question = question_of(asked)
        if asked.best_of_by != TOURNAMENT:
            reward = self._route(asked.best_of_by, "reward")
            scored = await self._tried(lambda: self.pools.score(reward.pool, question, [text for text, _ in answers]))
            return max(range(len(answers)), key=lambda index: scored.scores[index])
        seed = asked.body.get("seed")
        chosen: int = await self._tried(
            lambda: self.pools.choose(pool, asked.model, question, answers, seed if isinstance(seed, int) else 0)
        )
        return chosen

    async def _score(self, asked: Asked, route: Route) -> Answer:
        question, texts = asked.body.get("text_1"), asked.body["text_2"]
        answers = [texts] if isinstance(texts, str) else texts
        if not isinstance(question, str):
            raise Refused(422, "text_1 must be the text that was answered", code="invalid_value", param="text_1")
        if not isinstance(answers, list) or not all(isinstance(text, str) for text in answers):
            raise Refused(422, "text_2 must be an answer, or a list of them", code="invalid_value", param="text_2")
        scored = await self._tried(lambda: self.pools.score(route.pool, question, answers))
        data = [{"index": k, "object": "score", "score": score} for k, score in enumerate(scored.scores)]
        usage = {"prompt_tokens": scored.num_tokens, "total_tokens": scored.num_tokens}
        content = {
            "id": f"score-{uuid4().hex}",
            "object": "list",
            "created": int(time.time()),
            "model": route.model,
            "data": data,
            "usage": usage,
        }
        return Answer(200, content, None, scored.checkpoint)

    async def _ask(self, asked: Asked, order: Sequence[str], body: Mapping[str, Any], *, stream: bool) -> Relayed:
        raw = json.dumps(body).encode()
        return await relay(self.pools, order, asked.path, raw, stream=stream, deadline_s=self.deadline_s)

    async def _tried(self, call: Callable[[], Any]) -> Any:
        """A call that any replica can answer, asked again when one is lost, within one deadline."""
        ends = time.monotonic() + self.deadline_s
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await asyncio.wait_for(call(), ends - time.monotonic())
            except PoolBusy:
                raise busy() from None
            except UserError as error:
                raise Refused(422, str(error), code="invalid_value") from None
            except TimeoutError:
                raise late(self.deadline_s) from None
            except ReplicaLost:
                pause = 0.2 * 2**attempt
                if attempt == _ATTEMPTS or time.monotonic() + pause >= ends:
                    break
                await asyncio.sleep(pause)
        raise unavailable()

    def _count(self, key: str, usage: Any) -> None:
        if isinstance(usage, dict):
            self.counted(key, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))


async def _each(events: Sequence[bytes]) -> AsyncIterator[bytes]:
    for event in events:
        yield event
