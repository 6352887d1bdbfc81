"""Which rows a step uses: a pure function of the step number, so a resumed run asks exactly the same."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np


def rows_of_step(step: int, *, num_rows: int, per_step: int, seed: int) -> list[int]:
    """Indices of the `per_step` rows of step `step`: each epoch is a fresh permutation of all rows.

    Raises ValueError when there is no row.
    """
    if num_rows < 1:
        raise ValueError("there are no rows to draw from")
    first = step * per_step
    return [
        int(_permutation(position // num_rows, num_rows, seed)[position % num_rows])
        for position in range(first, first + per_step)
    ]


def sampling_seed(*parts: object) -> int:
    """A 31-bit seed from (run, step, prompt): the same on every machine and for any number of engines."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


@lru_cache(maxsize=8)
def _permutation(epoch: int, num_rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_rows)
