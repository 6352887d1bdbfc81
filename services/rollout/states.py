"""The life of one engine, as a table of allowed steps. Policies ask; only `Fleet` carries them out.

    STARTING ─▶ STALE ─▶ HEALTHY ─▶ SUSPECT ─▶ DEAD ─▶ RESTARTING ─▶ STALE ─▶ ...

There is no way from DEAD to HEALTHY: an engine that came back holds old weights until it was loaded and proven. An engine
that is no longer wanted is LEAVING from wherever it stands: it answers what it was asked, gets nothing new, and ends.
"""

from __future__ import annotations

from enum import Enum


class EngineState(Enum):
    """What the fleet believes of an engine. It gets requests in HEALTHY only."""

    STARTING = "starting"
    STALE = "stale"
    HEALTHY = "healthy"
    SUSPECT = "suspect"
    DEAD = "dead"
    RESTARTING = "restarting"
    LEAVING = "leaving"


_ALLOWED = {
    EngineState.STARTING: {EngineState.STALE, EngineState.DEAD},
    EngineState.STALE: {EngineState.HEALTHY, EngineState.SUSPECT, EngineState.DEAD},
    EngineState.HEALTHY: {EngineState.STALE, EngineState.SUSPECT, EngineState.DEAD},
    EngineState.SUSPECT: {EngineState.DEAD, EngineState.STALE},
    EngineState.DEAD: {EngineState.RESTARTING},
    EngineState.RESTARTING: {EngineState.STALE, EngineState.DEAD},
    EngineState.LEAVING: {EngineState.DEAD},
}
_MAY_LEAVE = set(EngineState) - {EngineState.LEAVING}


def moved(state: EngineState, to: EngineState) -> EngineState:
    """The new state. Raises ValueError for a step that the table does not allow."""
    if to not in _ALLOWED[state] and not (to is EngineState.LEAVING and state in _MAY_LEAVE):
        raise ValueError(f"an engine cannot go from {state.value} to {to.value}")
    return to
