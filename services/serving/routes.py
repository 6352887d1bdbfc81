"""What registry, gateway and replicas tell each other. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlft_core.serving.types import Checkpoint


@dataclass(frozen=True, slots=True)
class Target:
    """What the replicas of a pool shall hold. A later target has a higher version, also after a restart."""

    version: int
    checkpoint: Checkpoint


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


def pool_of(model: str) -> str:
    """The pool of a model's replicas."""
    return model


def canary_of(model: str) -> str:
    """The pool of its canary's."""
    return f"{model}#canary"
