"""Outputs that say something else than the input: numbers, names and content words exchanged for others of their type.

In this order: numbers and names; in an output that has neither, a long word that also stands in the input, so that it is
a fact the input supports; else any long word. What comes in stands neither in the row's input nor in its output.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from rlft_core.negatives.draw import draw_where
from rlft_core.negatives.vocabulary import Token, Vocabulary, endings_of, shape_of, tokens_of
from rlft_core.types import Row

_DIGIT_ATTEMPTS = 16

Exchange = Callable[[np.random.Generator], str | None]


def hallucinated(row: Row, words: Vocabulary, rng: np.random.Generator, *, max_changes: int) -> str | None:
    """The row's output with one to `max_changes` different words exchanged; None when nothing can be."""
    text = row.output.strip()
    tokens = list(tokens_of(text))
    known = {token.text.casefold() for token in (*tokens_of(row.input), *tokens)}
    spots = _facts(tokens, row, words, known) or _contents(tokens, row, words, known)
    changes: dict[str, str] = {}
    limit = int(rng.integers(1, max_changes + 1))
    for word in (list(spots)[index] for index in rng.permutation(len(spots))):
        found = spots[word](rng) if len(changes) < limit else None
        if found is not None:
            changes[word] = found
            known.add(found.casefold())
    return _exchanged(text, tokens, changes) if changes else None


def _facts(tokens: Sequence[Token], row: Row, words: Vocabulary, known: set[str]) -> dict[str, Exchange]:
    """The numbers and names, each with what exchanges it."""
    inside = frozenset(token.text for token in tokens_of(row.input) if not token.initial)
    spots: dict[str, Exchange] = {}
    for token in tokens:
        shape = shape_of(token.text)
        name = words.name_type(token, inside=inside)
        if shape is not None:
            spots[token.text] = _other_number(token.text, words.numbers.get(shape, ()), known)
        elif name is not None and any(word.casefold() not in known for word in words.names.get(name, ())):
            spots[token.text] = _one_of([words.names[name]], known)
    return spots


def _contents(tokens: Sequence[Token], row: Row, words: Vocabulary, known: set[str]) -> dict[str, Exchange]:
    """The content words, only those of the input when there are any."""
    found = [token.text for token in tokens if words.is_content(token.text)]
    said = {token.text.casefold() for token in tokens_of(row.input)}
    supported = [word for word in found if word in said]
    pools = {word: [words.content.get(ending, ()) for ending in endings_of(word)] for word in supported or found}
    return {word: _one_of(choices, known) for word, choices in pools.items()}


def _one_of(pools: Sequence[Sequence[str]], known: set[str]) -> Exchange:
    """A word of the first pool that has one which is not known."""

    def exchange(rng: np.random.Generator) -> str | None:
        drawn = (draw_where(rng, pool, lambda word: word.casefold() not in known) for pool in pools)
        return next((word for word in drawn if word is not None), None)

    return exchange


def _other_number(number: str, pool: Sequence[str], known: set[str]) -> Exchange:
    """A number of the same shape from the corpus; where it has none, other digits."""

    def exchange(rng: np.random.Generator) -> str | None:
        found = draw_where(rng, pool, lambda word: word not in known)
        for _ in range(_DIGIT_ATTEMPTS):
            if found is not None:
                break
            digits = _other_digits(number, rng)
            found = digits if digits not in known else None
        return found

    return exchange


def _other_digits(number: str, rng: np.random.Generator) -> str:
    """Random digits of the number's own script, without a zero in front that was not there."""
    first = next(index for index, character in enumerate(number) if character.isdigit())
    pieces = []
    for index, character in enumerate(number):
        if not character.isdigit():
            pieces.append(character)
            continue
        low = 1 if index == first and len(number) > 1 and unicodedata.digit(character) else 0
        pieces.append(chr(ord(character) - unicodedata.digit(character) + int(rng.integers(low, 10))))
    return "".join(pieces)


def _exchanged(text: str, tokens: Sequence[Token], changes: dict[str, str]) -> str:
    pieces, end = [], 0
    for token in tokens:
        if token.text in changes:
            pieces += [text[end : token.start], changes[token.text]]
            end = token.start + len(token.text)
    return "".join([*pieces, text[end:]])
