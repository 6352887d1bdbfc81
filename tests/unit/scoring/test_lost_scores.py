"""What scores are lost with: a node, and they are made again, or an actor that is dead for good, and it is named."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ObjectLostError, RayTaskError

from rlft_core.errors import EngineError, SamplesLost
from services.scoring.scorers import ScorerPool


def ref(error: BaseException | None = None) -> asyncio.Future[None]:
    """What Ray hands out, already there or failed."""
    found: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if error is None:
        found.set_result(None)
    else:
        found.set_exception(error)
    return found


class Crew:
    """One scorer, whose call fails because what it was to read is gone."""

    def least(self) -> Any:
        class Taken:
            def __enter__(self) -> Any:
                failed = ref(RayTaskError("score", "", ActorDiedError()))
                score = SimpleNamespace(remote=lambda *given: (failed, None))
                return SimpleNamespace(name="scorer 0", actor=SimpleNamespace(score=score))

            def __exit__(self, *_: object) -> None: ...

        return Taken()


class Served:
    """A judge whose answer is there, or fails as Ray says."""

    label, role, crew = "judge 'mine'", "judge", None

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
        self.taken = 0

    async def score(self, group: Any) -> tuple[Any, Callable[[], None]]:
        self.taken += 1

        def done() -> None:
            self.taken -= 1

        return ref(self.error), done


@pytest.mark.parametrize(
    "error, expected, told",
    [
        (None, SamplesLost, "what scorer 0 was to work on in 'score' is gone with the node"),
        (ActorDiedError(), EngineError, "judge 'mine' died in 'score' and could not be restarted"),
        (ObjectLostError("00" * 28, None, ""), SamplesLost, "what judge 'mine' was to work on in 'score' is gone"),  # type: ignore[no-untyped-call]
    ],
)
def test_who_is_dead_for_good_is_named_and_nothing_is_asked_for_ever(
    error: BaseException | None, expected: type[Exception], told: str
) -> None:
    async def scored() -> int:
        served = Served(error)
        pool = ScorerPool(Crew(), [served], max_skipped=0, start_s=1.0, deadline_s=30.0)  # type: ignore[arg-type, list-item]
        with pytest.raises(expected, match=told):
            await pool.score(ref())  # type: ignore[arg-type]
        return served.taken

    assert asyncio.run(scored()) == 0
