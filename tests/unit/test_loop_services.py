"""How a stage's services end: what a stop says of where the run stands."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from rlft_core.errors import RunStopped
from services.learner.mailbox import LearnerRestarted
from services.training.services import LoopServices


class Learner:
    """Saves, or restarts instead."""

    def __init__(self, restarts_at: int | None) -> None:
        self._restarts_at = restarts_at

    async def save(self) -> None:
        if self._restarts_at is not None:
            raise LearnerRestarted(self._restarts_at)


@pytest.mark.parametrize(
    "restarts_at, told",
    [
        (None, "stopped after step 7 of 20; its checkpoint is written"),
        (5, "stopped; the learner restarted at step 5, where it goes on when it is started again"),
    ],
)
def test_a_stop_is_a_stop_even_when_the_learner_restarts_just_then(restarts_at: int | None, told: str) -> None:
    unused: Any = None
    services = LoopServices(
        rollouts=unused,
        scorer=unused,
        learner=Learner(restarts_at),  # type: ignore[arg-type]
        watch=SimpleNamespace(num_steps=20, stopped=False, config=None),  # type: ignore[arg-type]
        prompts=unused,
        observe=unused,
        sampling=unused,
        notice=unused,
        desk=SimpleNamespace(stopping=True),  # type: ignore[arg-type]
        autoscale=unused,
    )
    with pytest.raises(RunStopped) as stopped:
        asyncio.run(services.finish(7))
    assert str(stopped.value) == told
