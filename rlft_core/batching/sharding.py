"""Sharing things among ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def split_evenly(items: Sequence[T], num_parts: int) -> list[list[T]]:
    """Consecutive parts of equal size. Raises ValueError when the number of items does not divide."""
    if num_parts < 1 or len(items) % num_parts:
        raise ValueError(f"{len(items)} items do not divide into {num_parts} equal parts")
    size = len(items) // num_parts
    return [list(items[part * size : (part + 1) * size]) for part in range(num_parts)]
