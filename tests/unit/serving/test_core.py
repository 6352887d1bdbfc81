"""What fails in the engine's own process is told with what was being done; a cancelled wait stays one."""

from __future__ import annotations

import asyncio

import pytest

from rlft_core.errors import EngineError
from services.serving.core import in_core


async def fails(error: BaseException) -> int:
    raise error


async def works() -> int:
    return 7


def test_a_result_is_handed_on() -> None:
    assert asyncio.run(in_core(works(), "nothing")) == 7


@pytest.mark.parametrize("error", [Exception("Call to add_lora method failed: no such file"), ValueError("bad")])
def test_whatever_fails_is_an_engines_error_that_says_what_was_done(error: Exception) -> None:
    with pytest.raises(EngineError, match=rf"the adapter of m could not be loaded: {error}"):
        asyncio.run(in_core(fails(error), "the adapter of m could not be loaded"))


def test_a_wait_that_is_cancelled_is_no_error_of_the_engines() -> None:
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(in_core(fails(asyncio.CancelledError()), "nothing"))
