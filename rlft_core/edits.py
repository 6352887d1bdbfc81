"""Which tokens of a text an edit changed: token-level Levenshtein between the original and the edited text.

    align(original, edited) ──▶ Alignment: steps that rebuild either side from the other
    changed_tokens(original, edited) ──▶ for each side, which tokens the edit touched

The second is what training asks for. It forgives what tokenisers do around a change: a neighbour that lost the space in
front of it, or a word that is the same but was cut into other pieces. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from rapidfuzz.distance import Levenshtein

Token = TypeVar("Token", bound=Hashable)
Kind = Literal["equal", "substitute", "insert", "delete"]

_KINDS: dict[str, Kind] = {"equal": "equal", "replace": "substitute", "insert": "insert", "delete": "delete"}
_MIRRORED: dict[Kind, Kind] = {
    "equal": "equal",
    "substitute": "substitute",
    "insert": "delete",
    "delete": "insert",
}
_SPACES = "Ġ▁ "
"""How tokenisers write the space in front of a word: byte-level ones Ġ, SentencePiece ▁."""


@dataclass(frozen=True, slots=True)
class Step(Generic[Token]):
    """Tokens `old` of the original stand where the edited text has `new`. Equal: both the same; insert: `old` is empty;
    delete: `new` is empty; substitute: both of one length."""

    kind: Kind
    old: tuple[Token, ...]
    new: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Alignment(Generic[Token]):
    """The steps from the original [M] to the edited text [N], in order, as few changes as possible."""

    steps: tuple[Step[Token], ...]

    @property
    def distance(self) -> int:
        """Tokens substituted, inserted or deleted: the Levenshtein distance."""
        return sum(max(len(step.old), len(step.new)) for step in self.steps if step.kind != "equal")

    def original(self) -> tuple[Token, ...]:
        """The original, rebuilt."""
        return tuple(token for step in self.steps for token in step.old)

    def edited(self) -> tuple[Token, ...]:
        """The edited text, rebuilt."""
        return tuple(token for step in self.steps for token in step.new)

    def kinds(self) -> tuple[tuple[Kind, ...], tuple[Kind, ...]]:
        """What happened to each token of the original [M] and of the edited text [N]."""
        old = tuple(step.kind for step in self.steps for _ in step.old)
        new = tuple(step.kind for step in self.steps for _ in step.new)
        return old, new

    def mirrored(self) -> Alignment[Token]:
        """The alignment from the edited text to the original."""
        return Alignment(tuple(Step(_MIRRORED[step.kind], step.new, step.old) for step in self.steps))


def align(original: Sequence[Token], edited: Sequence[Token]) -> Alignment[Token]:
    """Levenshtein alignment with costs of 1 (Wagner and Fischer 1974); symmetric: `align(b, a)` is the mirrored one.

    Of several alignments of one distance always the same is taken. Memory is linear in the lengths.
    """
    # Which of several shortest ways is found depends on the direction, so one direction is chosen by the texts.
    if _rank(original) > _rank(edited):
        return _aligned(edited, original).mirrored()
    return _aligned(original, edited)


def changed_tokens(original: Sequence[str], edited: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens the edit touched, on both sides: boolean [M] and [N].

    Tokens are the tokeniser's own pieces, such as `Ġtool` (see `pieces`). Two that differ in the space before them only
    count as equal, and so do stretches of the same text that were cut into other pieces. An edit that only deletes leaves
    the edited side without any mark, one that only inserts the original.
    """
    keys = [_key(piece) for piece in original], [_key(piece) for piece in edited]
    old, new = np.zeros(len(original), dtype=bool), np.zeros(len(edited), dtype=bool)
    at = [0, 0]
    for equal, steps in groupby(align(*keys).steps, key=lambda step: step.kind == "equal"):
        found = tuple(steps)
        sizes = sum(len(step.old) for step in found), sum(len(step.new) for step in found)
        if not equal:
            for marks, start, size, (low, high) in zip((old, new), at, sizes, _core(found), strict=True):
                marks[start + low : start + size - high] = True
        at = [start + size for start, size in zip(at, sizes, strict=True)]
    return old, new


def kept_share(original: Sequence[str], edited: Sequence[str]) -> float:
    """2 * untouched tokens / all tokens of both sides, in [0, 1]: how minimal an edit is."""
    marks = changed_tokens(original, edited)
    total = sum(len(side) for side in marks)
    return 1.0 - sum(int(side.sum()) for side in marks) / total if total else 1.0


def pieces(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """The tokeniser's own writing of its tokens. Decoded text would not do: bytes of half a character all look alike."""
    found: list[str] = tokenizer.convert_ids_to_tokens(list(token_ids))
    return found


def _aligned(original: Sequence[Token], edited: Sequence[Token]) -> Alignment[Token]:
    steps = Levenshtein.opcodes(original, edited)
    return Alignment(
        tuple(
            Step(
                _KINDS[step.tag],
                tuple(original[step.src_start : step.src_end]),
                tuple(edited[step.dest_start : step.dest_end]),
            )
            for step in steps
        )
    )


def _rank(tokens: Sequence[Any]) -> tuple[int, tuple[str, ...]]:
    return len(tokens), tuple(map(repr, tokens))


def _key(piece: str) -> str:
    return piece.strip(_SPACES) or piece


def _core(steps: Sequence[Step[str]]) -> Iterator[tuple[int, int]]:
    """For the original and the edited side of a changed stretch: how many tokens at its beginning and at its end are
    the same text, only cut otherwise."""
    old = [token for step in steps for token in step.old]
    new = [token for step in steps for token in step.new]
    low = _same(old, new)
    rest = old[low[0] :], new[low[1] :]
    high = _same([token[::-1] for token in reversed(rest[0])], [token[::-1] for token in reversed(rest[1])])
    return zip(low, high, strict=True)


def _same(old: Sequence[str], new: Sequence[str]) -> tuple[int, int]:
    """How many tokens of each side make up the longest beginning that is the same text on both."""
    ends = list(accumulate(map(len, old))), list(accumulate(map(len, new)))
    texts = "".join(old), "".join(new)
    for end in sorted(set(ends[0]) & set(ends[1]), reverse=True):
        if texts[0][:end] == texts[1][:end]:
            return ends[0].index(end) + 1, ends[1].index(end) + 1
    return 0, 0
