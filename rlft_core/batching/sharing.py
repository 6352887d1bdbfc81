"""Texts that begin alike become one group, whose beginning is computed once, though their prompts are not the same.

    [story, answers 1, label] [story, answers 2, label] ──▶ prompt: story; completions: answers 1 + label, answers 2 + label

What stands between the common beginning and the targets is given: read, but not predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlft_core.batching.packing import Sequences, number_tokens

Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of what follows it."""


def share_beginnings(pairs: Sequence[Pair]) -> list[Sequences]:
    """Neighbours whose prompts begin alike, over more than half of the longest, as one group; targets keep their order."""
    runs: list[_Run] = []
    for pair in pairs:
        if not (runs and runs[-1].takes(pair)):
            runs.append(_Run([pair], len(pair[0]), len(pair[0])))
    return number_tokens([run.group() for run in runs], given=[run.given() for run in runs])


@dataclass(slots=True)
class _Run:
    """Neighbours: all prompts begin with the same `shared` tokens, the longest has `longest`."""

    pairs: list[Pair]
    shared: int
    longest: int

    def takes(self, pair: Pair) -> bool:
        """Take one more, unless too little would be left that all begin with."""
        shared = _num_common(self.pairs[0][0][: self.shared], pair[0])
        longest = max(self.longest, len(pair[0]))
        if 2 * shared <= longest:
            return False
        self.pairs.append(pair)
        self.shared, self.longest = shared, longest
        return True

    def group(self) -> tuple[Sequence[int], list[list[int]]]:
        """The common beginning, and what follows it in each text."""
        beginning = self.pairs[0][0][: self.shared]
        return beginning, [[*prompt[self.shared :], *targets] for prompt, targets in self.pairs]

    def given(self) -> list[int]:
        """How much of what follows is still prompt."""
        return [len(prompt) - self.shared for prompt, _ in self.pairs]


def _num_common(one: Sequence[int], other: Sequence[int]) -> int:
    """With how many equal tokens two texts begin."""
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)
