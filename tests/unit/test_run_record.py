"""The time a stage took is written down while it works, so that a killed run does not lose it."""

from __future__ import annotations

import asyncio

import pytest

from services.pipeline import run


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_NOTE_EVERY_S", 0.01)


def test_the_time_is_noted_while_a_stage_works_and_not_afterwards() -> None:
    notes: list[str] = []

    async def stage() -> None:
        while len(notes) < 3:
            await asyncio.sleep(0.001)

    async def whole() -> int:
        await run._noting(stage(), lambda: notes.append("noted"))
        count = len(notes)
        await asyncio.sleep(0.05)
        return count

    assert asyncio.run(asyncio.wait_for(whole(), 10.0)) == len(notes) >= 3


def test_what_ends_a_stage_is_not_swallowed() -> None:
    async def stage() -> None:
        raise ValueError("engine-0 is gone")

    with pytest.raises(ValueError, match="engine-0 is gone"):
        asyncio.run(run._noting(stage(), lambda: None))
