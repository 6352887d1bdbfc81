"""Calls taken together: each gets its own values, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import threading

import pytest

from services.scoring.passes import Passes

_DEADLINE_S = 30.0


class Doubling:
    """Doubles numbers, when it is let. Knows what it was asked in one go."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.begun = threading.Semaphore(0)
        self.let = threading.Semaphore(0)
        self.alone = threading.Lock()

    def __call__(self, items: list[int]) -> list[int]:
        assert self.alone.acquire(blocking=False), "two passes at once"
        try:
            self.asked.append(items)
            self.begun.release()
            assert self.let.acquire(timeout=_DEADLINE_S)
            if 13 in items:
                raise ValueError("13")
            return [2 * item for item in items]
        finally:
            self.alone.release()


async def started(doubling: Doubling) -> None:
    assert await asyncio.to_thread(doubling.begun.acquire, timeout=_DEADLINE_S)


def test_calls_that_wait_are_taken_by_one_pass_and_each_gets_its_own() -> None:
    doubling = Doubling()

    async def talk() -> list[tuple[int, ...]]:
        passes: Passes[int, int] = Passes(doubling)
        first = asyncio.create_task(passes([1, 2]))
        await started(doubling)
        later = [asyncio.create_task(passes(items)) for items in ([3], [], [4, 5])]
        await asyncio.sleep(0)
        doubling.let.release(3)
        found = await asyncio.wait_for(asyncio.gather(first, *later), _DEADLINE_S)
        assert found[0].span[1] <= found[1].span[0]
        assert found[1].span == found[2].span == found[3].span
        again = await asyncio.wait_for(passes([6]), _DEADLINE_S)
        return [part.values for part in (*found, again)]

    assert asyncio.run(talk()) == [(2, 4), (6,), (), (8, 10), (12,)]
    assert doubling.asked == [[1, 2], [3, 4, 5], [6]]


def test_who_hangs_up_takes_nothing_from_the_others() -> None:
    doubling = Doubling()

    async def talk() -> list[tuple[int, ...]]:
        passes: Passes[int, int] = Passes(doubling)
        starter = asyncio.create_task(passes([0]))
        await started(doubling)
        gone, gone_too, stays = (asyncio.create_task(passes([n])) for n in (1, 2, 3))
        await asyncio.sleep(0)
        starter.cancel()  # while its pass runs
        gone.cancel()  # before its pass begins
        doubling.let.release()
        await started(doubling)
        gone_too.cancel()  # the first of a pass that runs
        doubling.let.release()
        found = await asyncio.wait_for(stays, _DEADLINE_S)
        assert [task.cancelled() for task in (starter, gone, gone_too)] == [True, True, True]
        return [found.values]

    assert asyncio.run(talk()) == [(6,)]
    assert doubling.asked == [[0], [2, 3]]


def test_an_error_reaches_all_of_its_pass_and_nobody_after_it() -> None:
    doubling = Doubling()

    async def talk() -> tuple[int, ...]:
        passes: Passes[int, int] = Passes(doubling)
        first = asyncio.create_task(passes([0]))
        await started(doubling)
        both = [asyncio.create_task(passes(items)) for items in ([13], [1])]
        await asyncio.sleep(0)
        doubling.let.release(3)
        assert (await asyncio.wait_for(first, _DEADLINE_S)).values == (0,)
        for task in both:
            with pytest.raises(ValueError, match="13"):
                await asyncio.wait_for(task, _DEADLINE_S)
        return (await asyncio.wait_for(passes([7]), _DEADLINE_S)).values

    assert asyncio.run(talk()) == (14,)
