"""The HTTP side: keys, limits, OpenAI's paths, and the administration of what is served. Knows no engine.

request ─▶ key ─▶ limits ─▶ body ─▶ completions ─▶ JSON or events       /admin ─▶ admin key ─▶ control
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route as Path
from starlette.types import ASGIApp, Receive, Scope, Send

from rlft_core.serving.requests import (
    CHAT,
    SCORE,
    TEXT,
    Refused,
    RequestLimits,
    error_content,
    parse_object,
    parse_request,
    too_large,
)
from rlft_core.serving.routing import Allowance
from services.keys import Key, Keys
from services.serving.completions import Answer, Completions
from services.serving.meters import Meters
from services.serving.routes import Reply, Route

_THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
_NOBODY = Key("nobody", "", admin=True)  # without keys only this machine can reach the service


class Control(Protocol):
    """The registry, as the gateway asks it."""

    async def routes(self) -> Sequence[Route]:
        """Where requests go now."""

    async def overview(self) -> Sequence[Mapping[str, Any]]:
        """For people."""

    async def promote(self, name: str, spec: str, percent: float) -> Reply:
        """Let a name stand for another checkpoint."""

    async def rollback(self, name: str) -> Reply:
        """Undo the last promote."""


@dataclass(slots=True)
class Gateway:
    """One HTTP service. `in_work` counts requests that are not answered to their end."""

    completions: Completions
    control: Control
    keys: Keys
    limits: RequestLimits
    allowance: Allowance
    meters: Meters
    in_work: int = 0
    draining: bool = False
    started: int = field(default_factory=lambda: int(time.time()))

    def app(self) -> Starlette:
        """The ASGI app."""
        paths = [
            Path("/health", self._health),
            Path("/ready", self._ready),
            Path("/v1/models", self._models),
            Path("/v1/models/{model:path}", self._model),
            *(Path(path, self._answer, methods=["POST"]) for path in (CHAT, TEXT, SCORE)),
            Path("/admin/models", self._overview),
            Path("/admin/models/{model:path}/promote", self._promote, methods=["POST"]),
            Path("/admin/models/{model:path}/rollback", self._rollback, methods=["POST"]),
        ]
        handlers: Any = {Refused: _refused, HTTPException: _http_error, Exception: _failed}
        return Starlette(routes=paths, exception_handlers=handlers, middleware=[Middleware(_Counted, gateway=self)])

    async def refresh(self) -> None:
        """Learn where requests go now."""
        self.completions.routes = {route.model: route for route in await self.control.routes()}

    async def drain(self, seconds: float) -> int:
        """Take no more requests and wait for those in work; returns how many are left."""
        self.draining = True
        ends = time.monotonic() + seconds
        while self.in_work and time.monotonic() < ends:
            await asyncio.sleep(0.05)
        return self.in_work

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        models = await self.control.overview()
        waiting = [str(m["model"]) for m in models if not any(r["current"] for r in m["replicas"])]
        ready = bool(models) and not self.draining
        content = {"ready": ready, "draining": self.draining, "without_replica": waiting}
        return JSONResponse(content, 200 if ready else 503)

    async def _models(self, request: Request) -> Response:
        self._owner(request)
        return JSONResponse(
            {"object": "list", "data": [self._card(route) for route in self.completions.routes.values()]}
        )

    async def _model(self, request: Request) -> Response:
        self._owner(request)
        name = request.path_params["model"]
        if name not in self.completions.routes:
            raise Refused(404, f"there is no model '{name}'", code="model_not_found", param="model")
        return JSONResponse(self._card(self.completions.routes[name]))

    def _card(self, route: Route) -> dict[str, Any]:
        trained = {"system": route.checkpoint.system, "template": route.checkpoint.template}
        shown: dict[str, Any] = {"checkpoint": route.checkpoint.label, "kind": route.kind, "prompt": trained}
        if route.canary is not None:
            shown |= {"canary": route.canary.label, "percent": route.percent}
        return {"id": route.model, "object": "model", "created": self.started, "owned_by": "rlft", "rlft": shown}

    async def _answer(self, request: Request) -> Response:
        owner = self._owner(request)
        started = time.monotonic()
        self._admit(owner)
        model = ""
        try:
            asked = parse_request(request.url.path, await self._body(request), self.limits)
            model = asked.model if asked.model in self.completions.routes else ""
            answer = await self.completions.answer(asked, owner.name)
            self.meters.request(model, answer.status, time.monotonic() - started, answer.num_attempts)
            return _response(answer)
        except Refused as refused:
            self.meters.request(model, refused.status, time.monotonic() - started, 1)
            raise

    def _admit(self, owner: Key) -> None:
        if self.draining:
            raise Refused(503, "the service is ending; ask another one", code="draining", wait_s=5)
        if self.in_work > self.limits.max_at_once:
            told = f"{self.limits.max_at_once} requests are in work, as many as this service takes at once"
            raise Refused(429, told, code="overloaded", wait_s=1)
        wait = self.allowance.take_request(owner.name, time.monotonic())
        if wait:
            told = f"the key '{owner.name}' has used up what it may ask in a minute; come again in {wait:.1f} s"
            raise Refused(429, told, code="rate_limit_exceeded", wait_s=wait)

    async def _body(self, request: Request) -> bytes:
        """Read no more than is taken."""
        found = bytearray()
        try:
            async for piece in request.stream():
                found += piece
                if len(found) > self.limits.max_body_bytes:
                    raise too_large(self.limits)
        except ClientDisconnect:
            raise Refused(422, "the body ended before its end", code="invalid_json") from None
        return bytes(found)

    async def _overview(self, request: Request) -> Response:
        self._admin(request)
        return JSONResponse({"models": list(await self.control.overview())})

    async def _promote(self, request: Request) -> Response:
        self._admin(request)
        body = parse_object(await self._body(request), self.limits)
        run, percent = body.get("run"), body.get("percent", 100)
        if not isinstance(run, str):
            raise Refused(422, "run is missing: RUN[:STAGE][@STEP]", code="invalid_value", param="run")
        if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 < percent <= 100:
            raise Refused(422, f"percent must be above 0 and at most 100, not {percent!r:.40}", param="percent")
        return await self._changed(await self.control.promote(request.path_params["model"], run, float(percent)))

    async def _rollback(self, request: Request) -> Response:
        self._admin(request)
        return await self._changed(await self.control.rollback(request.path_params["model"]))

    async def _changed(self, reply: Reply) -> Response:
        await self.refresh()
        return JSONResponse(reply.content, reply.status)

    def _owner(self, request: Request) -> Key:
        if not self.keys:
            return _NOBODY
        owner = self.keys.owner(request.headers.get("authorization"))
        if owner is None:
            told = (
                "a key is needed: Authorization: Bearer KEY"
                if "authorization" not in request.headers
                else "unknown key"
            )
            raise Refused(401, told, code="invalid_api_key")
        return owner

    def _admin(self, request: Request) -> None:
        owner = self._owner(request)
        if not self.keys and _from_a_page(request):
            raise Refused(403, "without keys, pages of other sites may not change what is served", code="not_admin")
        if not owner.admin:
            raise Refused(403, f"the key '{owner.name}' may ask models, not change them", code="not_admin")


class _Counted:
    """Counts the requests in work, each from its beginning until the last byte of its answer is sent."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        counts = scope["type"] == "http" and scope["path"] in (CHAT, TEXT, SCORE)
        self._gateway.in_work += counts
        try:
            await self._app(scope, receive, send)
        finally:
            self._gateway.in_work -= counts


def _from_a_page(request: Request) -> bool:
    """Was it sent by a browser for a page that is not this machine's? Programs send no Origin."""
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).hostname not in _THIS_MACHINE


def _response(answer: Answer) -> Response:
    headers = {"x-rlft-checkpoint": answer.checkpoint, "x-rlft-attempts": str(answer.num_attempts)}
    if answer.events is not None:
        return StreamingResponse(answer.events, headers=headers, media_type="text/event-stream")
    return JSONResponse(answer.content, answer.status, headers=headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse(error.content, error.status, headers=error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(error_content(error.status_code, told), error.status_code, headers=error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    """What was not foreseen stands in the log, and says nothing of us to strangers."""
    return JSONResponse(error_content(500, "something went wrong in the service", code="internal_error"), 500)
