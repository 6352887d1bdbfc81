"""From comparisons within a group to one score for each answer: all pairs of a small group, a Swiss schedule of a large one.

while (pairs := schedule.pairs()):   # one round over all groups is one batch
    schedule.tell([...])
schedule.scores()                    # win rates, or Bradley-Terry strengths
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import combinations

import numpy as np

_MAX_STEPS = 5_000


class Schedule:
    """Who meets whom in a group of `size`.

    Up to `all_pairs` answers every pair meets once, size x (size - 1) / 2 comparisons in one round. Larger groups meet in
    `rounds` Swiss rounds: each answer meets one of about its own score that it has not met, size / 2 comparisons a round,
    so the number of comparisons grows with the size and not with its square. Of an odd size one rests, nobody twice before all
    have.
    """

    def __init__(self, size: int, *, seed: int, all_pairs: int = 4, rounds: int = 3) -> None:
        if size < 2 or rounds < 1:
            raise ValueError(f"a schedule needs at least two answers and one round, got {size} and {rounds}")
        self.size = size
        self.met: list[tuple[int, int]] = []
        self.outcomes: list[float] = []
        self._swiss = size > all_pairs
        self._rounds_left = rounds if self._swiss else 1
        self._rng = np.random.default_rng(seed)
        self._rests = np.zeros(size, dtype=np.int64)
        self._waiting: list[tuple[int, int]] = []
        self._next_round()

    def pairs(self) -> list[tuple[int, int]]:
        """The comparisons of this round; none at the end."""
        return list(self._waiting)

    def tell(self, outcomes: Sequence[float]) -> None:
        """1 where the first of a pair is better, 0 where the second is, .5 for a tie. ValueError unless one for each."""
        if len(outcomes) != len(self._waiting):
            raise ValueError(f"the round has {len(self._waiting)} comparisons, got {len(outcomes)} outcomes")
        self.met += self._waiting
        self.outcomes += outcomes
        self._next_round()

    def scores(self) -> np.ndarray:
        """[size] in [0, 1]: the share of its comparisons that an answer won, where all met all; otherwise the probability
        to win against an answer of this group, from Bradley-Terry strengths."""
        if not self._swiss:
            return win_shares(self.size, self.met, self.outcomes)
        strengths = bradley_terry_fit(self.size, self.met, self.outcomes)
        chances = 1.0 / (1.0 + np.exp(strengths[None, :] - strengths[:, None]))
        found: np.ndarray = (chances.sum(axis=1) - 0.5) / (self.size - 1)
        return found

    def _next_round(self) -> None:
        self._waiting = []
        if not self._rounds_left:
            return
        self._rounds_left -= 1
        if not self._swiss:
            self._waiting = list(combinations(range(self.size), 2))
            return
        points = np.zeros(self.size)
        for (a, b), outcome in zip(self.met, self.outcomes, strict=True):
            points[a] += outcome
            points[b] += 1.0 - outcome
        # Equal points in random order; then each meets the next one below that it has not met.
        lots = self._rng.permutation(self.size)
        order = sorted(range(self.size), key=lambda i: (-points[i], lots[i]))
        if self.size % 2:
            resting = max(order, key=lambda i: (-self._rests[i], order.index(i)))
            self._rests[resting] += 1
            order.remove(resting)
        self._waiting = paired(order, {frozenset(pair) for pair in self.met})


def paired(order: Sequence[int], met: Collection[frozenset[int]]) -> list[tuple[int, int]]:
    """Everybody with the next one below that it has not met, as far as this leaves such a one for all others.

    Where there is no such pairing, or none was found in some thousand steps, some meet again.
    """
    steps = _MAX_STEPS

    def of(left: tuple[int, ...]) -> list[tuple[int, int]] | None:
        nonlocal steps
        if not left:
            return []
        first, rest = left[0], left[1:]
        for at, other in enumerate(rest):
            steps -= 1
            if steps < 0:
                return None
            others = of((*rest[:at], *rest[at + 1 :])) if frozenset((first, other)) not in met else None
            if others is not None:
                return [(first, other), *others]
        return None

    found = of(tuple(order))
    return found if found is not None else list(zip(order[::2], order[1::2], strict=True))


def win_shares(size: int, pairs: Sequence[tuple[int, int]], outcomes: Sequence[float]) -> np.ndarray:
    """[size] mean outcome of each answer's comparisons; .5 where it had none."""
    won, met = np.zeros(size), np.zeros(size)
    for (a, b), outcome in zip(pairs, outcomes, strict=True):
        won[a] += outcome
        won[b] += 1.0 - outcome
        met[[a, b]] += 1
    return np.where(met > 0, won / np.maximum(met, 1), 0.5)


def bradley_terry_fit(
    size: int,
    pairs: Sequence[tuple[int, int]],
    outcomes: Sequence[float],
    *,
    prior: float = 0.5,
    tolerance: float = 1e-10,
    max_iterations: int = 10_000,
) -> np.ndarray:
    """[size] strengths s of mean 0 with P(a beats b) = sigma(s_a - s_b): the mode of the posterior.

    By minorisation-maximisation (Hunter 2004, eq. 3). `prior`: every answer also has so many wins and so many losses against
    an imagined one of strength 0, which keeps the strengths of those that won or lost all their comparisons finite.
    A tie counts as half a win for each.

    Raises ValueError for a prior that is not positive.
    """
    if not prior > 0:
        raise ValueError(f"the prior must be above 0, got {prior}")
    wins = np.full(size, prior)
    for (a, b), outcome in zip(pairs, outcomes, strict=True):
        wins[a] += outcome
        wins[b] += 1.0 - outcome
    first, second = (np.array([pair[k] for pair in pairs], dtype=np.int64) for k in (0, 1))
    strength = np.ones(size)
    for _ in range(max_iterations):
        shared = 1.0 / (strength[first] + strength[second])
        rates = 2.0 * prior / (strength + 1.0)
        np.add.at(rates, first, shared)
        np.add.at(rates, second, shared)
        updated = wins / rates
        moved = float(np.abs(np.log(updated) - np.log(strength)).max()) if size else 0.0
        strength = updated
        if moved < tolerance:
            break
    logs = np.log(strength)
    found: np.ndarray = logs - (math.fsum(logs) / max(1, size))
    return found
