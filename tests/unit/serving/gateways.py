"""A gateway before scripted replicas, and how it is asked: for the tests of the HTTP side."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import httpx

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
