"""Which rows a step uses: a pure function of the step number, so a resumed run asks exactly the same."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np


def rows_of_step(
    step: int, *, num_rows: int, per_step: int, seed: int, families: tuple[int, ...] | None = None
) -> list[int]:
    """Indices of the `per_step` rows of step `step`: each epoch is a fresh permutation of all rows.

    `families`: sizes of runs of rows that stay neighbours, in their order; they are permuted as wholes. Raises ValueError
    when there is no row, or when the sizes do not add up to all rows.
    """
    if num_rows < 1:
        raise ValueError("there are no rows to draw from")
    if families is not None and sum(families) != num_rows:
        raise ValueError(f"families of {sum(families)} rows for {num_rows} rows")
    first = step * per_step
    return [
        int(_order(position // num_rows, num_rows, families, seed)[position % num_rows])
        for position in range(first, first + per_step)
    ]


def sampling_seed(*parts: object) -> int:
    """A 31-bit seed from (run, step, prompt): the same on every machine and for any number of engines."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


@lru_cache(maxsize=8)
def _order(epoch: int, num_rows: int, families: tuple[int, ...] | None, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, epoch])
    if families is None:
        return rng.permutation(num_rows)
    members = np.split(np.arange(num_rows), np.cumsum(families)[:-1])
    return np.concatenate([members[family] for family in rng.permutation(len(members))])
