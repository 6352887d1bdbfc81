"""Stop and scale: checks what is asked and hands it to the run. The run does it; see services.control.requests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from rlft_core.errors import UserError
from services.control.requests import ask
from services.viewer.status import RunState

DEADLINE_S = 20.0
_Number = Annotated[int, Field(strict=True, ge=0, le=10_000)]


class Stop(BaseModel):
    """`now`: at once, without a last checkpoint."""

    model_config = ConfigDict(extra="forbid")

    now: Annotated[bool, Field(strict=True)] = False


class Scale(BaseModel):
    """How many there should be; what is not named stays as it is."""

    model_config = ConfigDict(extra="forbid")

    rollouts: _Number | None = None
    reward: _Number | None = None
    judge: _Number | None = None


def stop(folder: Path, state: RunState, wish: Stop, *, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
    """Ask a run to end. Raises UserError when it does not work or refuses, DeadlineError when it does not answer."""
    _working(state)
    return ask(folder, "stop", {"now": wish.now}, deadline_s=deadline_s)


def scale(folder: Path, state: RunState, wish: Scale, *, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
    """Ask a run for more or fewer actors. Raises as `stop` does."""
    _working(state)
    arguments = wish.model_dump(exclude_none=True)
    if not arguments:
        raise UserError("say how many of what: rollouts, reward or judge")
    return ask(folder, "scale", arguments, deadline_s=deadline_s)


def _working(state: RunState) -> None:
    if not state.works:
        raise UserError(f"the run {state.name} is {state.state}: only one that works can be stopped or scaled")
