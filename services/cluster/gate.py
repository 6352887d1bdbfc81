"""Who may place the actors of a stage next, among the runs of one cluster.

Two runs that each get half of what they need would wait for each other for ever. So one after the other, in the order in which
they came, they wait until all they need is free, and place it. A run that dies in its turn loses it when its lease ends.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import ray

NAMESPACE, NAME = "rlft", "gate"
LEASE_S = 30.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run stands: is it its turn, who is before it, and which other runs have placed their actors."""

    turn: bool
    ahead: tuple[str, ...]
    at_work: tuple[str, ...]


@dataclass(slots=True)
class Gate:
    """The queue, as a plain class. `now` in every call: seconds that only grow."""

    queue: dict[str, float] = field(default_factory=dict)
    placed: dict[str, float] = field(default_factory=dict)

    def ask(self, run: str, now: float) -> Place:
        """Queue, or stay in the queue: called again before the lease ends."""
        self.placed.pop(run, None)
        self.queue[run] = now  # a key that is there keeps its place
        self._forget(now)
        ahead = tuple(self.queue)[: tuple(self.queue).index(run)]
        return Place(not ahead, ahead, tuple(self.placed))

    def settle(self, run: str, now: float) -> None:
        """The run's actors are placed, and it is at work: the next one's turn. Called again before the lease ends."""
        self.queue.pop(run, None)
        self.placed[run] = now
        self._forget(now)

    def leave(self, run: str) -> None:
        """The run needs nothing any more."""
        self.queue.pop(run, None)
        self.placed.pop(run, None)

    def _forget(self, now: float) -> None:
        for those in (self.queue, self.placed):
            for run in [run for run, heard in those.items() if now - heard > LEASE_S]:
                del those[run]


class GateActor:
    """The one gate of a cluster."""

    def __init__(self) -> None:
        self._gate = Gate()

    def ask(self, run: str) -> Place:
        """See Gate."""
        return self._gate.ask(run, time.monotonic())

    def settle(self, run: str) -> None:
        """See Gate."""
        self._gate.settle(run, time.monotonic())

    def leave(self, run: str) -> None:
        """See Gate."""
        self._gate.leave(run)


def gate_of_cluster() -> ray.actor.ActorHandle:
    """The cluster's gate; the first run that asks starts it, and it outlives all of them."""
    options = {"name": NAME, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True}
    return ray.remote(GateActor).options(**options, num_cpus=0, max_restarts=-1).remote()
