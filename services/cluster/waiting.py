"""Waits that end: every one has a deadline, and what passes it is named."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from rlft_core.errors import DeadlineError

T = TypeVar("T")


async def within(seconds: float, awaitable: Awaitable[T], *, actor: str, phase: str, progress: str = "") -> T:
    """Await, but at most `seconds`. Raises DeadlineError naming the actor, the phase and the last progress."""
    try:
        return await asyncio.wait_for(awaitable, seconds)
    except TimeoutError:
        last = f"; last progress: {progress}" if progress else ""
        raise DeadlineError(f"{actor} did not finish '{phase}' within {seconds:g} s{last}") from None
