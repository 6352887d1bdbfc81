"""Calling an app without a server: heads, pieces, errors, and hanging up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from services.serving.asgi import Head, call_app


async def echo(request: Request) -> JSONResponse:
    return JSONResponse({"path": request.url.path, "body": await request.json()}, 201)


async def forever(request: Request) -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
                await asyncio.sleep(0.001)
        finally:
            request.app.state.ended = True

    return StreamingResponse(pieces(), media_type="text/event-stream")


def app() -> Starlette:
    made = Starlette(routes=[Route(path, end, methods=["POST"]) for path, end in (("/echo", echo), ("/ever", forever))])
    made.state.ended = False
    return made


def test_a_head_and_then_the_body() -> None:
    async def talk() -> list[Head | bytes]:
        return [part async for part in call_app(app(), "/echo", b'{"a": 1}')]

    assert asyncio.run(talk()) == [Head(201, "application/json"), b'{"path":"/echo","body":{"a":1}}']


def test_who_stops_reading_has_hung_up() -> None:
    made = app()

    async def talk() -> list[Head | bytes]:
        found = []
        async with aclosing(call_app(made, "/ever", b"{}")) as parts:
            async for part in parts:
                found.append(part)
                if len(found) == 3:
                    break
        return found

    assert asyncio.run(talk())[1:] == [b"x", b"x"]
    assert made.state.ended


def test_what_the_app_raises_is_raised() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("broken app")

    async def talk() -> None:
        async for _ in call_app(broken, "/", b""):
            pass

    with pytest.raises(ValueError, match=r"broken app"):
        asyncio.run(talk())
