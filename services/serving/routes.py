"""What registry, gateway and replicas tell each other. Values only.

A pool is the replicas of one model name, or of several that are adapters of one base: these share every engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlft_core.serving.state import Served
from rlft_core.serving.types import Checkpoint


@dataclass(frozen=True, slots=True)
class Target:
    """What the replicas of a pool shall hold: the checkpoint of every name that they answer to. A later target has a higher
    version, also after a restart."""

    version: int
    models: Mapping[str, Checkpoint]

    @property
    def checkpoint(self) -> Checkpoint:
        """Of a pool that answers to one name."""
        (found,) = self.models.values()
        return found


@dataclass(frozen=True, slots=True)
class Route:
    """Where requests for a model go: to its pool, and `percent` of them to the pool of its canary."""

    model: str
    kind: str
    pool: str
    canary_pool: str
    checkpoint: Checkpoint
    canary: Checkpoint | None
    percent: float


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP status, and what goes with it."""

    status: int
    content: Mapping[str, Any]


def pools_of(models: Sequence[Served]) -> dict[str, tuple[Served, ...]]:
    """The names that each pool answers to. Adapters share one where base and precision are the same; the pool is then called
    by all of their names."""
    groups: dict[tuple[Any, ...], list[Served]] = {}
    for served in models:
        one = served.current
        shared = (one.base, one.dtype, one.trust_remote_code) if one.base else (served.name,)
        groups.setdefault(shared, []).append(served)
    return {"+".join(served.name for served in group): tuple(group) for group in groups.values()}


def holds_canaries(group: Sequence[Served]) -> bool:
    """Whether the engines of a pool hold its canaries too: adapters need none of their own."""
    return bool(group[0].current.base)


def canary_of(name: str) -> str:
    """Of a pool: the pool for its models' canaries. Of a model whose engine holds its canary: the canary's name there."""
    return f"{name}#canary"
