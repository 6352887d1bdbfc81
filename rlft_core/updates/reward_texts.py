"""Good texts beside bad ones as token ids, and where all their tokens stand on one flat axis.

    contrasts ──texts_of──▶ Texts: C texts, T entries; text c owns starts[c] ... ends[c]

A row's texts share their prompt and are packed as a group. The score of a token is read at its own position; packing
predicts a token from the position before it, so every text gets one more token to be "predicted", END, and entry
`starts[c] + 1 + t` belongs to token t. The first entry of a text stands before its first token and is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from rlft_core.batching.packing import Sequences, number_tokens
from rlft_core.models.reward_model import END

Changed = tuple[tuple[int, ...], tuple[int, ...]]
"""Positions of the tokens that differ, in the better text and in the worse one."""


@dataclass(frozen=True, slots=True)
class TokenContrast:
    """Token ids of a prompt [P], of its better text [T] and of each worse one [T_k]; `kinds` [K] names the latter.

    `changed` [K] says where the better text and each worse one differ; empty where nobody asks for tokens. `shown` is the
    task as a person reads it.
    """

    prompt: tuple[int, ...]
    positive: tuple[int, ...]
    negatives: tuple[tuple[int, ...], ...]
    kinds: tuple[str, ...]
    changed: tuple[Changed, ...] = ()
    shown: str = ""


@dataclass(frozen=True, slots=True)
class Touched:
    """Tokens that an edit touched: their entries on the flat axis [K] and the pair [K] that each belongs to."""

    entries: Tensor
    pairs: Tensor


@dataclass(frozen=True, slots=True)
class Texts:
    """All C texts of some contrasts, each better one before its worse ones; pair n is text `good[n]` against `bad[n]`.

    `owner` [T]: the text whose token an entry belongs to, -1 for entries before a text's first token; `lengths` [C] in
    tokens; `touched`: on the better and on the worse side.
    """

    sequences: list[Sequences]
    starts: Tensor
    ends: Tensor
    owner: Tensor
    good: Tensor
    bad: Tensor
    touched: tuple[Touched, Touched]
    num_tokens: int

    @property
    def lengths(self) -> Tensor:
        return self.ends - self.starts


def texts_of(contrasts: Sequence[TokenContrast]) -> Texts:
    """Put the texts of some contrasts on one axis."""
    groups = [(c.prompt, [[*text, END] for text in (c.positive, *c.negatives)]) for c in contrasts]
    lengths = [len(text) for _, texts in groups for text in texts]
    stops = list(accumulate(lengths))
    starts = [stop - length for stop, length in zip(stops, lengths, strict=True)]
    good: list[int] = []
    bad: list[int] = []
    touched: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    first = 0
    for contrast in contrasts:
        for number in range(len(contrast.negatives)):
            texts = first, first + 1 + number
            for side, text, positions in zip(touched, texts, _changed(contrast, number), strict=True):
                side += [(starts[text] + 1 + position, len(good)) for position in positions]
            good.append(texts[0])
            bad.append(texts[1])
        first += 1 + len(contrast.negatives)
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths, dtype=torch.int64))
    at = torch.tensor(starts, dtype=torch.int64)
    owner[at] = -1
    return Texts(
        number_tokens(groups),
        at,
        torch.tensor(stops, dtype=torch.int64) - 1,
        owner,
        torch.tensor(good, dtype=torch.int64),
        torch.tensor(bad, dtype=torch.int64),
        (_touched(touched[0]), _touched(touched[1])),
        sum(lengths),
    )


def _changed(contrast: TokenContrast, number: int) -> Changed:
    return contrast.changed[number] if contrast.changed else ((), ())


def _touched(found: Sequence[tuple[int, int]]) -> Touched:
    whole = torch.tensor(found, dtype=torch.int64).reshape(-1, 2)
    return Touched(whole[:, 0], whole[:, 1])
