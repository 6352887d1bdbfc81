"""Waits that end: every one has a deadline, and what passes it is named."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorUnavailableError, ObjectLostError, RayActorError, RayTaskError

from rlft_core.errors import DeadlineError, EngineError, RlftError, SamplesLost, ServiceError

T = TypeVar("T")
_ASK_AGAIN_S = 1.0


class Unavailable(ServiceError):
    """An actor does not answer just now, because it is being started again, perhaps on another node."""


async def within(
    seconds: float, awaitable: Awaitable[T], *, actor: str, phase: str, progress: Callable[[], str] = str
) -> T:
    """Await, but at most `seconds`. Raises DeadlineError naming the actor, the phase and the progress at the end."""
    try:
        return await asyncio.wait_for(awaitable, seconds)
    except TimeoutError:
        last = f"; last progress: {told}" if (told := progress()) else ""
        raise DeadlineError(f"{actor} did not finish '{phase}' within {seconds:g} s{last}") from None


async def answer(ref: ray.ObjectRef, actor: str, phase: str, seconds: float) -> Any:
    """What an actor says, that Ray starts again by itself. Raises what it raised, EngineError when it is gone for good,
    Unavailable when it is not, SamplesLost when what it was to work on is gone, DeadlineError."""
    try:
        return await within(seconds, _value(ref), actor=actor, phase=phase)
    except (ObjectLostError, RayTaskError) as error:
        if is_loss(error):
            raise SamplesLost(f"what {actor} was to work on in '{phase}' is gone with the node that held it") from error
        if not isinstance(error, RayTaskError):
            raise
        raise error.cause if isinstance(error.cause, RlftError) else error from None
    except ActorUnavailableError as error:
        raise Unavailable(f"{actor} does not answer in '{phase}': {error}") from error
    except RayActorError as error:
        raise EngineError(f"{actor} died in '{phase}' and could not be restarted: {error}") from error


async def patiently(ask: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Ask actors whose answers depend on the question alone, and ask again, at most so long, while one is unavailable."""
    end = time.monotonic() + seconds
    while True:
        try:
            return await ask()
        except Unavailable:
            if time.monotonic() > end:
                raise
        await asyncio.sleep(_ASK_AGAIN_S)


def is_loss(error: BaseException) -> bool:
    """Was it raised because an object is gone, or whoever was to make it: here, or in the actor that was to read it?"""
    return isinstance(error, ObjectLostError) or (
        isinstance(error, RayTaskError) and isinstance(error.cause, ObjectLostError | RayActorError)
    )


async def _value(ref: ray.ObjectRef) -> Any:
    return await ref
