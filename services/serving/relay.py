"""One request to a pool of replicas, asked again elsewhere as long as nothing of the answer has been sent.

    attempt ─▶ head, first pieces ─▶ sent          replica lost before that: the next attempt, until the deadline

The first event of a streamed chat names a role and no token, so it waits for the second: until then the request can move.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from rlft_core.serving.requests import CHAT, Refused, error_content
from services.serving.asgi import Head

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0
_MOST_ENGINES = 3


class ReplicaLost(Exception):
    """A replica went away with a request that it had, or could not be reached. Another may answer."""


class EngineLost(ReplicaLost):
    """A replica's engine died with a request that it had: perhaps of it."""


class PoolBusy(Exception):
    """More requests wait for a pool than it may hold."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of some texts by one checkpoint, and how many tokens were read for them."""

    scores: tuple[float, ...]
    num_tokens: int
    checkpoint: str


class Pools(Protocol):
    """The replicas behind the gateway, by the name of their pool. All methods raise ReplicaLost or PoolBusy."""

    def ask(self, pool: str, path: str, body: bytes) -> AsyncIterator[Head | bytes]:
        """A request for completions: a Head, then pieces of the body."""

    async def choose(self, pool: str, model: str, question: str, answers: Sequence[tuple[str, bool]], seed: int) -> int:
        """Which of some answers is the best by the judgement of the pool's `model`. Answers are texts, and whether they ended."""

    async def score(self, pool: str, question: str, answers: Sequence[str]) -> Scored:
        """What a reward model thinks of some answers."""


@dataclass(frozen=True, slots=True)
class Relayed:
    """An answer that has begun; one that is not streamed is complete. Its `pieces` may raise ReplicaLost. `num_attempts` is 1
    when all went well."""

    head: Head
    pieces: AsyncIterator[bytes]
    pool: str
    num_attempts: int


async def relay(
    pools: Pools, order: Sequence[str], path: str, body: bytes, *, stream: bool, deadline_s: float
) -> Relayed:
    """Ask the first pool of `order`; after a loss the next one, and the last one again and again.

    Raises Refused with status 429 when too many requests wait, 503 when no replica answers within the deadline, and 500 when
    three engines have died with it: it may be what kills them.
    """
    ends, pause = time.monotonic() + deadline_s, _FIRST_PAUSE_S
    attempt = num_dead = 0
    while True:
        pool = order[min(attempt, len(order) - 1)]
        attempt += 1
        parts = pools.ask(pool, path, body)
        try:
            num_pieces = None if not stream else 2 if path == CHAT else 1
            head, first = await asyncio.wait_for(_begin(parts, num_pieces), ends - time.monotonic())
            return Relayed(head, _pieces(first, parts), pool, attempt)
        except PoolBusy:
            raise busy() from None
        except ReplicaLost as loss:
            num_dead += isinstance(loss, EngineLost)
            if num_dead == _MOST_ENGINES:
                told = f"{num_dead} engines died while they worked on this request; it is not asked again"
                raise Refused(500, told, code="engines_died") from None
            if time.monotonic() + pause >= ends:
                raise unavailable() from None
        except TimeoutError:
            raise late(deadline_s) from None
        await asyncio.sleep(pause)
        pause = min(2.0 * pause, _LONGEST_PAUSE_S)


def busy() -> Refused:
    """Too many requests wait."""
    return Refused(429, "the service is busy: too many requests wait for this model", code="overloaded", wait_s=1)


def unavailable() -> Refused:
    """Every replica that was asked is lost."""
    return Refused(503, "no replica of this model answers; try again", code="unavailable", wait_s=5)


def late(deadline_s: float) -> Refused:
    """A replica has the request, and no answer yet."""
    return Refused(503, f"no answer within {deadline_s:g} s; ask for less, or try again", code="timeout", wait_s=5)


async def whole(relayed: Relayed) -> bytes:
    """The rest of an answer that is not streamed."""
    async with aclosing(relayed.pieces) as pieces:  # type: ignore[type-var]
        return b"".join([piece async for piece in pieces])


def lost_event() -> bytes:
    """What a stream ends with that cannot go on."""
    error = error_content(502, "the replica that wrote this answer was lost; ask again", code="replica_lost")
    return f"data: {json.dumps(error)}\n\n".encode()


async def _begin(parts: AsyncIterator[Head | bytes], num_pieces: int | None) -> tuple[Head, list[bytes]]:
    """The head and so many pieces; all of them where nothing is sent before its end."""
    head = await anext(parts)
    assert isinstance(head, Head)
    wanted = num_pieces if head.status == 200 else None
    first: list[bytes] = []
    while wanted is None or len(first) < wanted:
        piece = await anext(parts, None)
        if piece is None:
            break
        assert isinstance(piece, bytes)
        first.append(piece)
    return head, first


async def _pieces(first: Sequence[bytes], parts: AsyncIterator[Head | bytes]) -> AsyncIterator[bytes]:
    for piece in first:
        yield piece
    async for part in parts:
        assert isinstance(part, bytes)
        yield part
