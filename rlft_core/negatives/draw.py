"""Seeded chance: a generator for each purpose, and drawing from long lists. Knows nothing of texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

_DRAWS = 32

Item = TypeVar("Item")


def stream(*purpose: str | int) -> np.random.Generator:
    """The random generator of a purpose, such as (seed, row, kind, attempt): the same on every machine."""
    digest = hashlib.sha256(json.dumps(purpose).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """One of the items, all equally likely."""
    return items[int(rng.integers(len(items)))]


def draw_where(rng: np.random.Generator, items: Sequence[Item], accept: Callable[[Item], bool]) -> Item | None:
    """One of the items that are accepted, all equally likely; None when there is none.

    Looks at all items only when some draws found none: nearly always most of them would do.
    """
    for _ in range(_DRAWS if items else 0):
        item = pick(rng, items)
        if accept(item):
            return item
    accepted = [item for item in items if accept(item)]
    return pick(rng, accepted) if accepted else None


def weighted_order(rng: np.random.Generator, weights: Sequence[float]) -> list[int]:
    """Indices in random order, drawn one after the other without replacement, each by its share of what is left."""
    # The smallest of exponential times with these rates is the first to ring (Efraimidis and Spirakis 2006).
    times = rng.exponential(size=len(weights)) / np.asarray(weights, dtype=np.float64)
    return [int(index) for index in np.argsort(times, kind="stable")]
