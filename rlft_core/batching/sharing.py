"""Texts that begin alike become one group, whose beginning is computed once, though their prompts are not the same.

    [story, answers 1, label] [story, answers 2, label] ──▶ prompt: story; completions: answers 1 + label, answers 2 + label

What stands between the common beginning and the targets is given: read, but not predicted.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlft_core.batching.packing import Sequences, number_tokens

Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of what follows it."""


def share_beginnings(pairs: Sequence[Pair]) -> list[Sequences]:
    """Neighbours whose prompts begin alike, over more than half of the longest, as one group; targets keep their order."""
    found = _alike(pairs)
    return number_tokens(
        [(run[0][0][:shared], [[*prompt[shared:], *targets] for prompt, targets in run]) for run, shared in found],
        given=[[len(prompt) - shared for prompt, _ in run] for run, shared in found],
    )


def _alike(pairs: Sequence[Pair]) -> list[tuple[list[Pair], int]]:
    """Runs of neighbours, and with how many equal tokens all prompts of each begin."""
    found: list[tuple[list[Pair], int]] = []
    for prompt, targets in pairs:
        if found:
            run, shared = found[-1]
            common = _num_common(run[0][0][:shared], prompt)
            if 2 * common > max(len(prompt), *(len(one) for one, _ in run)):
                found[-1] = [*run, (prompt, targets)], common
                continue
        found.append(([(prompt, targets)], len(prompt)))
    return found


def _num_common(one: Sequence[int], other: Sequence[int]) -> int:
    """With how many equal tokens two texts begin."""
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)
