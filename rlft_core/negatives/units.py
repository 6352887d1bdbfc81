"""Texts as units: words where the script puts spaces between them, otherwise characters as people see them.

Knows nothing of rows or kinds. A character is a base with its marks and joiners, so an accent, an emoji of several
parts or a flag is never torn apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

# Thai, Lao, Burmese, Khmer, Chinese and Japanese: a run of these is several words.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fff\u3005-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
"""Characters of scripts without spaces, as the inside of a regular expression's set."""

_IS_UNSPACED = re.compile(f"[{UNSPACED}\U00020000-\U0003ffff]")
_JOINER = "\u200d"


@dataclass(frozen=True, slots=True)
class Units:
    """A text without its outer white space. `gaps[i]` stands between `units[i]` and `units[i + 1]`."""

    units: tuple[str, ...]
    gaps: tuple[str, ...]
    spaced: bool

    def __len__(self) -> int:
        return len(self.units)

    @property
    def joiner(self) -> str:
        """What to put between units that did not stand side by side."""
        return " " if self.spaced else ""

    def part(self, start: int, stop: int) -> str:
        """The text from unit `start` up to, but without, unit `stop`."""
        return _woven(self.units[start:stop], self.gaps[start:])

    def refilled(self, units: tuple[str, ...]) -> str:
        """Other units, as many, between the same gaps."""
        return _woven(units, self.gaps)


def units_of(text: str, *, least_words: int = 1) -> Units:
    """A text's words; its characters where the script has no spaces or there are fewer than `least_words` words."""
    text = text.strip()
    words = text.split()
    spaced = not is_unspaced(text) and len(words) >= least_words
    pieces = words if spaced else [piece for piece in characters(text) if not piece.isspace()]
    gaps: list[str] = []
    end = 0
    for index, piece in enumerate(pieces):
        start = text.index(piece, end)
        if index:
            gaps.append(text[end:start])
        end = start + len(piece)
    return Units(tuple(pieces), tuple(gaps), spaced)


def is_unspaced(text: str) -> bool:
    """Whether most of a text's letters and digits are of a script without spaces."""
    return 2 * len(_IS_UNSPACED.findall(text)) > sum(character.isalnum() for character in text)


def characters(text: str) -> list[str]:
    """A text cut into characters as people see them, near enough to Unicode's grapheme clusters."""
    found: list[str] = []
    for character in text:
        if found and (_continues(character) or found[-1].endswith(_JOINER) or _completes_flag(found[-1], character)):
            found[-1] += character
        else:
            found.append(character)
    return found


def plain(text: str) -> str:
    """The form in which texts are compared: no outer white space, and a single space for any inner one."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def says_something(text: str) -> bool:
    """Whether a text has a letter, a digit or a sign such as an emoji, not only punctuation and space."""
    return any(character.isalnum() or unicodedata.category(character) == "So" for character in text)


def overlap(text: str, other: str) -> float:
    """F1 of two texts' words, whatever their order and case, in [0, 1]: what tells a copy from something else."""
    left, right = _bag(text), _bag(other)
    common = (left & right).total()
    return 2 * common / (left.total() + right.total()) if common else 0.0


def framed(text: str, *, like: str, ended: bool = True) -> str:
    """A text with the outer white space of another: a newline after every reference must not give a negative away."""
    core = like.strip()
    before, _, after = like.partition(core)
    return before + text.strip() + (after if ended else "")


def _woven(units: tuple[str, ...], gaps: tuple[str, ...]) -> str:
    return "".join(unit + gap for unit, gap in zip(units, (*gaps[: len(units) - 1], ""), strict=True)) if units else ""


def _continues(character: str) -> bool:
    """Marks, variation selectors, joiners, skin tones and the tags of regional flags belong to what is before them."""
    return (
        unicodedata.category(character).startswith("M")
        or character in (_JOINER, "\u200c")
        or "\U0001f3fb" <= character <= "\U0001f3ff"
        or "\U000e0020" <= character <= "\U000e007f"
    )


def _completes_flag(before: str, character: str) -> bool:
    return len(before) == 1 and all("\U0001f1e6" <= letter <= "\U0001f1ff" for letter in (before, character))


def _bag(text: str) -> Counter[str]:
    pieces = (re.sub(r"^\W+|\W+$", "", unit.casefold()) for unit in units_of(text).units)
    return Counter(piece for piece in pieces if piece)
