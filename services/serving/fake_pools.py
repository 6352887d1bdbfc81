"""Pools without an engine: answers in OpenAI's shape made of the request alone, and replicas that are lost as a test says."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from rlft_core.errors import DataError
from rlft_core.serving.requests import CHAT
from services.serving.asgi import Head
from services.serving.relay import EngineLost, PoolBusy, ReplicaLost, Scored


class FakePools:
    """Every pool answers `<pool> <number>` word by word. The prompt "deadly" ends an engine, "too long" is refused.

    Asked to go on with an answer, it writes `and on`.

    `losses`: for a pool, after how many pieces each of its next requests is lost, 0 is before the head; `busy`: who refuses.
    """

    def __init__(self, losses: Mapping[str, Sequence[int]] | None = None, *, busy: Sequence[str] = ()) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.hung_up: list[str] = []
        self.wait: asyncio.Event | None = None
        self._losses = {pool: list(counts) for pool, counts in (losses or {}).items()}
        self._busy = busy
        self._numbers: Counter[str] = Counter()

    async def ask(self, pool: str, path: str, body: bytes) -> AsyncIterator[Head | bytes]:
        """As `Pools.ask`."""
        content = json.loads(body)
        self.asked.append((pool, content))
        if pool in self._busy:
            raise PoolBusy(pool)
        if content.get("prompt") == "deadly":
            raise EngineLost(pool)
        lost_after = self._losses[pool].pop(0) if self._losses.get(pool) else None
        done = False
        try:
            for number, part in enumerate(self._parts(pool, path, content)):
                if number == lost_after:
                    raise ReplicaLost(pool)
                if self.wait is not None and number > 1:
                    await self.wait.wait()
                yield part
            done = True
        finally:
            if not done:
                self.hung_up.append(pool)

    async def choose(self, pool: str, model: str, question: str, answers: Sequence[tuple[str, bool]], seed: int) -> int:
        """The last one that ended."""
        self.asked.append((pool, {"model": model, "question": question, "answers": list(answers), "seed": seed}))
        self._lose(pool)
        return max(index for index, (_, ended) in enumerate(answers) if ended)

    async def score(self, pool: str, question: str, answers: Sequence[str]) -> Scored:
        """A text's length; "too long" is."""
        self.asked.append((pool, {"question": question, "answers": list(answers)}))
        self._lose(pool)
        if self.wait is not None:
            await self.wait.wait()
        if "too long" in answers:
            raise DataError("the question and its longest answer have 9 tokens, and this model reads 8")
        return Scored(tuple(float(len(text)) for text in answers), 7, pool)

    def _lose(self, pool: str) -> None:
        if pool in self._busy:
            raise PoolBusy(pool)
        if self._losses.get(pool):
            self._losses[pool].pop(0)
            raise ReplicaLost(pool)

    def _parts(self, pool: str, path: str, content: Mapping[str, Any]) -> list[Head | bytes]:
        if content.get("prompt") == "too long":
            told = {
                "error": {"message": "This model's maximum context length is 4", "type": "BadRequestError", "code": 400}
            }
            return [Head(400, "application/json", pool), json.dumps(told).encode()]
        self._numbers[pool] += 1
        words = [pool, f" {self._numbers[pool]}"]
        goes_on = (
            content["messages"][-1]["role"] == "assistant" if path == CHAT else content["prompt"].startswith("go on")
        )
        if goes_on and self._numbers[pool] > 1:
            words = [" and", " on"]
        usage = {"prompt_tokens": 3, "completion_tokens": 2 * (content.get("n") or 1), "total_tokens": 5}
        base = {"id": f"id-{self._numbers[pool]}", "created": 1, "model": content["model"]}
        if not content.get("stream"):
            choices = [
                _choice(path, k, f"{''.join(words)} {'x' * k}".strip(), k != 2) for k in range(content.get("n") or 1)
            ]
            kind = "chat.completion" if path == CHAT else "text_completion"
            whole = {**base, "object": kind, "choices": choices, "usage": usage}
            return [Head(200, "application/json", pool), json.dumps(whole).encode()]
        first = [{"role": "assistant", "content": ""}] if path == CHAT else []
        if path == CHAT:
            deltas = [{"delta": delta, "index": 0} for delta in (*first, *({"content": word} for word in words))]
        else:
            deltas = [{"text": word, "index": 0} for word in words]
        events = [_event({**base, "choices": [delta]}) for delta in deltas]
        if (content.get("stream_options") or {}).get("include_usage"):
            events.append(_event({**base, "choices": [], "usage": usage}))
        return [Head(200, "text/event-stream", pool), *events, b"data: [DONE]\n\n"]


def _choice(path: str, index: int, text: str, ended: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {"index": index, "finish_reason": "stop" if ended else "length", "logprobs": None}
    return shown | ({"message": {"role": "assistant", "content": text}} if path == CHAT else {"text": text})


def _event(content: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()
