"""Calls an ASGI app that runs in this process: a request in, a head and pieces of a body out. No socket, no server.

Whoever stops reading has hung up: the app is told, as a server would tell it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Head:
    """How an answer begins. `checkpoint`: whose weights it comes from, where that is known."""

    status: int
    media_type: str
    checkpoint: str = ""


async def call_app(app: Any, path: str, body: bytes) -> AsyncIterator[Head | bytes]:
    """POST a JSON body. Yields a Head, then the body's pieces as the app sends them; what the app raises is raised here."""
    sent: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    gone = asyncio.Event()
    given = False

    async def receive() -> dict[str, Any]:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        try:
            await app(_scope(path, len(body)), receive, sent.put)
        finally:
            await sent.put(None)

    task = asyncio.ensure_future(run())
    try:
        while (message := await sent.get()) is not None:
            if message["type"] == "http.response.start":
                headers = {name.lower(): value.decode() for name, value in message.get("headers", [])}
                yield Head(message["status"], headers.get(b"content-type", "application/json"))
            elif message["type"] == "http.response.body" and message.get("body"):
                yield message["body"]
        await task
    finally:
        gone.set()
        if not task.done():
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def _scope(path: str, length: int) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(length).encode())],
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
        "state": {},
    }
