"""A single-elimination tournament without any process: it says who meets whom, and is told who won.

while (pairs := bracket.pairs()):        # all pairs of a round at once, to be judged as one batch
    bracket.tell([...])                  # 1: the first of the pair goes on, 0: the second; .5: drawn by lot
bracket.winner
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Bracket:
    """`num_entries` entries, numbered from 0, drawn by `seed`. N entries take N - 1 matches in ceil(log2 N) rounds.

    When the number of those left is odd, one of them has a bye; nobody has a second one while somebody had none.
    """

    def __init__(self, num_entries: int, *, seed: int) -> None:
        if num_entries < 1:
            raise ValueError(f"a tournament needs an entry, got {num_entries}")
        self._rng = np.random.default_rng(seed)
        self._left = [int(entry) for entry in self._rng.permutation(num_entries)]
        self._byes = dict.fromkeys(self._left, 0)
        self._waiting: list[tuple[int, int]] = []
        self._resting: list[int] = []
        self.num_matches = 0
        self._draw()

    @property
    def winner(self) -> int | None:
        """The last entry; None while matches are to be played."""
        return self._left[0] if len(self._left) == 1 else None

    def pairs(self) -> list[tuple[int, int]]:
        """The matches of this round; none when there is a winner."""
        return list(self._waiting)

    def tell(self, outcomes: Sequence[float]) -> None:
        """How each match of the round ended: 1 for its first entry, 0 for its second, .5 for a tie, which lots decide.

        Raises ValueError when there is not one outcome for each match.
        """
        if len(outcomes) != len(self._waiting):
            raise ValueError(f"the round has {len(self._waiting)} matches, got {len(outcomes)} outcomes")
        winners = [
            first if outcome > 0.5 or (outcome == 0.5 and self._rng.random() < 0.5) else second
            for (first, second), outcome in zip(self._waiting, outcomes, strict=True)
        ]
        self.num_matches += len(winners)
        self._left = [*winners, *self._resting]
        self._draw()

    def _draw(self) -> None:
        order = [self._left[index] for index in self._rng.permutation(len(self._left))]
        self._resting = []
        if len(order) == 1:
            self._waiting = []
            return
        if len(order) % 2:
            rests = min(order, key=lambda entry: self._byes[entry])
            self._byes[rests] += 1
            self._resting = [rests]
            order.remove(rests)
        self._waiting = list(zip(order[::2], order[1::2], strict=True))
