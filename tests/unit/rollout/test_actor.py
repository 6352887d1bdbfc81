"""An engine's actor as a plain object, with a scripted engine on its thread: who hears of what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from rlft_core.errors import EngineError
from rlft_core.types import Prompt, Row
from services.rollout.actor import RolloutActor, Ticket
from services.rollout.engine import EngineSettings, Sampling

SETTINGS = EngineSettings("", "float32", 64, 8, 32, 0, 0.0, 1, True, False, False)
FITTING, TOO_LONG = 3, 100


def answers(actor: RolloutActor, lengths: Sequence[int], *, batch: str) -> list[Any]:
    """What each request of a batch comes to, an error as such; a prompt for each length, in tokens."""

    async def asked() -> list[Any]:
        calls = [
            actor.generate(
                Prompt(Row(str(k), "in", "out"), (1,) * n, 1, 0), Sampling(1.0, 4), Ticket(batch, k, len(lengths))
            )
            for k, n in enumerate(lengths)
        ]
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10.0)

    return asyncio.run(asked())


def test_a_batch_is_answered_and_what_does_not_fit_is_refused_alone() -> None:
    found = answers(RolloutActor("e", "fake", SETTINGS), [FITTING, TOO_LONG, FITTING], batch="a")
    assert isinstance(found[1], EngineError)
    assert [found[k][1].prompt.row.id for k in (0, 2)] == ["0", "2"]


def test_an_engine_that_breaks_while_a_batch_is_admitted_answers_all_of_it_and_everyone_later() -> None:
    actor = RolloutActor("e", "fake", SETTINGS, {"break_after": 1})
    found = answers(actor, [FITTING, TOO_LONG, FITTING, FITTING], batch="a")
    assert [type(error) for error in found] == [RuntimeError, EngineError, RuntimeError, RuntimeError]
    broken = "e: scripted breakdown after 1 requests"
    assert str(found[0]) == f"e is dead: RuntimeError: {broken}"
    assert [str(error) for error in found[2:]] == [f"the engine died: {broken}"] * 2
    (late,) = answers(actor, [FITTING], batch="b")
    assert str(late) == f"e is dead: RuntimeError: {broken}"
