"""Calls into vLLM's engine core, which is another process: whatever fails there comes out as a bare Exception."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from rlft_core.errors import EngineError

T = TypeVar("T")


async def in_core(call: Awaitable[T], what: str) -> T:
    """The result of a call. Raises EngineError, which says `what` could not be done, and why."""
    try:
        return await call
    except Exception as error:
        raise EngineError(f"{what}: {error}") from error
