"""One engine as its fleet knows it, what a fleet allows itself, and how it reads what engines say."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayTaskError

from services.rollout.states import EngineState, moved


@dataclass(slots=True)
class Member:
    """One engine of the fleet and what is known of it."""

    name: str
    handle: ray.actor.ActorHandle
    state: EngineState = EngineState.STARTING
    incarnation: int = 0
    inflight: int = 0
    node: str = ""
    pid: int = 0
    loading: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    def move(self, to: EngineState) -> None:
        """Change the state. Raises ValueError for a step that there is not."""
        self.state = moved(self.state, to)

    @property
    def leaving(self) -> bool:
        """Is it no longer wanted? May become true in every wait."""
        return self.state is EngineState.LEAVING

    def awaits_weights(self, incarnation: int) -> bool:
        """Is it still in that life, and do weights make it healthy? May become false in every wait."""
        return self.incarnation == incarnation and self.state is EngineState.STALE


@dataclass(frozen=True, slots=True)
class FleetLimits:
    """Deadlines in seconds; how often each engine may be restarted; largest mean probe difference in nats."""

    start_s: float
    request_s: float
    sync_s: float
    max_restarts: int
    probe_tolerance: float


def reason_of(error: BaseException) -> str:
    """One line of an error: what an actor's own code raised is the last of a remote traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    raised = isinstance(error, RayTaskError) or "creation task" in lines[0]
    return lines[-1] if raised else lines[0]


async def wait_for(ref: ray.ObjectRef) -> Any:
    """The value of a small object, such as a summary or a report."""
    return await ref
