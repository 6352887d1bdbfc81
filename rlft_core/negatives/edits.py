"""Bad outputs made from the output alone: shuffled, repetitive, truncated, with typos or a word too few or too many.

Plain functions of a text and a random generator; None where the text allows none. They know of no rows and no corpus.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from rlft_core.negatives.draw import pick
from rlft_core.negatives.units import Units, characters, is_unspaced, says_something, units_of

_ATTEMPTS = 8
_SHUFFLES = 64  # of two words every other one changes nothing
_WORD_CHARACTERS = 4  # what counts as a word where the script has no spaces
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def shuffled(text: str, rng: np.random.Generator) -> str | None:
    """The words, or the characters of fewer than three words, in another order; white space stays where it is."""
    parts = units_of(text, least_words=3)
    if len(set(parts.units)) < 2:
        return None
    for _ in range(_SHUFFLES):
        order = tuple(parts.units[index] for index in rng.permutation(len(parts)))
        if order != parts.units:
            return parts.refilled(order)
    return None


def repetitive(text: str, rng: np.random.Generator, *, min_times: int, max_times: int) -> str | None:
    """A part said `min_times` to `max_times` times in a row: a phrase, with or without what follows, or all of it."""
    parts = units_of(text)
    if not says_something(text):
        return None
    times = int(rng.integers(min_times, max_times + 1))
    form = pick(rng, ("phrase", "loop", "tail", "whole")) if len(parts) > 1 else "whole"
    if form == "whole":
        return pick(rng, (" ", "\n")).join([parts.part(0, len(parts))] * times)
    start, stop = _tail(parts, rng) if form == "tail" else _phrase(parts, rng)
    said = parts.joiner.join([parts.part(start, stop)] * times)
    before = parts.part(0, start) + parts.gaps[start - 1] if start else ""
    if form == "loop" or stop == len(parts):
        return before + said
    return before + said + parts.gaps[stop - 1] + parts.part(stop, len(parts))


def truncated(text: str, rng: np.random.Generator, *, min_kept: float, max_kept: float) -> str | None:
    """The first words, a share of them between the two; at least one is kept, and at least one is lost."""
    parts = units_of(text)
    # What is lost must say something: without a lone mark at the end the output would be as good as before.
    last = max((index for index, unit in enumerate(parts.units) if says_something(unit)), default=0)
    if last < 1:
        return None
    low = min(max(1, math.ceil(min_kept * len(parts))), last)
    high = min(max(low, math.floor(max_kept * len(parts))), last)
    return parts.part(0, int(rng.integers(low, high + 1)))


def typos(text: str, rng: np.random.Generator, *, rate: float) -> str | None:
    """A share `rate` of the words, at least one, with a typing mistake each. Words of three letters come first."""
    words, gaps = _typed(text)
    letters = [sum(piece[0].isalpha() for piece in characters(word)) for word in words]
    spots = [at for at, count in enumerate(letters) if count >= 3] or [at for at, count in enumerate(letters) if count]
    if not spots:
        return None
    for at in rng.permutation(spots)[: max(1, round(rate * len(spots)))]:
        words[at] = _mistyped(words[at], rng)
    return "".join(word + gap for word, gap in zip(words, gaps, strict=True))


def dropped(text: str, rng: np.random.Generator, *, max_words: int) -> str | None:
    """Without some of its words, one to `max_words` of them; at least one word stays."""
    parts = units_of(text)
    spots = _saying(parts)
    if len(spots) < 2:
        return None
    gone = set(rng.permutation(spots)[: int(rng.integers(1, min(max_words, len(spots) - 1) + 1))].tolist())
    return _rewritten(parts, dict.fromkeys(gone, ()))


def doubled(text: str, rng: np.random.Generator, *, max_words: int) -> str | None:
    """Some of its words, one to `max_words`, said twice in a row."""
    parts = units_of(text)
    spots = _saying(parts)
    if not spots:
        return None
    said = rng.permutation(spots)[: int(rng.integers(1, min(max_words, len(spots)) + 1))].tolist()
    return _rewritten(parts, {at: (parts.units[at],) * 2 for at in said})


def swapped(text: str, rng: np.random.Generator) -> str | None:
    """Two neighbouring words in the wrong order."""
    parts = units_of(text)
    spots = [at for at in range(len(parts) - 1) if parts.units[at] != parts.units[at + 1]]
    if not spots:
        return None
    at, units = pick(rng, spots), list(parts.units)
    units[at], units[at + 1] = units[at + 1], units[at]
    return parts.refilled(tuple(units))


def _saying(parts: Units) -> list[int]:
    """Where the units stand that are more than a lone mark."""
    return [at for at, unit in enumerate(parts.units) if says_something(unit)]


def _rewritten(parts: Units, changes: Mapping[int, tuple[str, ...]]) -> str:
    """The text with none, one or several units in the place of one, each followed by the gap that followed it."""
    text, gap = "", ""
    for at, unit in enumerate(parts.units):
        for new in changes.get(at, (unit,)):
            text += gap + new
            gap = parts.joiner
        if at not in changes or changes[at]:
            gap = parts.gaps[at] if at < len(parts.gaps) else ""
    return text


def _phrase(parts: Units, rng: np.random.Generator) -> tuple[int, int]:
    """Where one to three units stand that say something."""
    for _ in range(_ATTEMPTS):
        length = int(rng.integers(1, min(3, len(parts)) + 1))
        start = int(rng.integers(len(parts) - length + 1))
        if says_something(parts.part(start, start + length)):
            return start, start + length
    return 0, len(parts)


def _tail(parts: Units, rng: np.random.Generator) -> tuple[int, int]:
    """Where the last units stand, at most half of them but at least one, back to one that says something."""
    start = len(parts) - int(rng.integers(1, max(1, len(parts) // 2) + 1))
    while start and not says_something(parts.part(start, len(parts))):
        start -= 1
    return start, len(parts)


def _typed(text: str) -> tuple[list[str], list[str]]:
    """What counts as words when typing, and the gap after each."""
    if not is_unspaced(text):
        parts = units_of(text)
        return list(parts.units), [*parts.gaps, ""]
    pieces = characters(text)
    size = _WORD_CHARACTERS
    words = ["".join(pieces[at : at + size]) for at in range(0, len(pieces), size)]
    return words, [""] * len(words)


def _mistyped(word: str, rng: np.random.Generator) -> str:
    """The word with one mistake: two letters swapped, one dropped, doubled, or the key beside it."""
    pieces = characters(word)
    letters = [at for at, piece in enumerate(pieces) if piece[0].isalpha()]
    swaps = [at for at in letters if at + 1 in letters and pieces[at] != pieces[at + 1]]
    keys = [at for at in letters if pieces[at].lower() in _NEIGHBOURS]
    mistakes = [
        "double",
        *(["swap"] if swaps else []),
        *(["drop"] if len(letters) > 2 else []),
        *(["key"] if keys else []),
    ]
    mistake = pick(rng, mistakes)
    at = pick(rng, {"swap": swaps, "key": keys}.get(mistake, letters))
    if mistake == "swap":
        pieces[at : at + 2] = pieces[at + 1], pieces[at]
    elif mistake == "key":
        beside = pick(rng, _NEIGHBOURS[pieces[at].lower()])
        pieces[at] = beside.upper() if pieces[at].isupper() else beside
    elif mistake == "drop":
        del pieces[at]
    else:
        pieces[at] += pieces[at]
    return "".join(pieces)


def _neighbours() -> dict[str, str]:
    """The letters beside, above and below each letter of the keyboard."""
    at = {letter: (row, column) for row, line in enumerate(_KEYBOARD) for column, letter in enumerate(line)}
    near = ((0, 1), (0, -1), (1, 0), (1, -1), (-1, 0), (-1, 1))  # each line stands half a key to the right
    by_place = {place: letter for letter, place in at.items()}
    return {
        letter: "".join(
            by_place[row + down, column + right] for down, right in near if (row + down, column + right) in by_place
        )
        for letter, (row, column) in at.items()
    }


_NEIGHBOURS = _neighbours()
