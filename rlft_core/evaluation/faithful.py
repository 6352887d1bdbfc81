"""Whether a text keeps to its input: numbers and names that the input does not have.

Exact counts of what can be compared as it is written. A name in other words, a number written out or a false statement
made of the input's own words is not found here; a language that capitalises common nouns makes the shares too high.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rlft_core.rewards.protocol import Sample
from rlft_core.rewards.text import words_of

# A number stands by itself: neither "x86" nor the end of "v2.0". In the input any run of digits will do.
_NUMBER = re.compile(r"(?<![^\W_])(?<![^\W_][.,])\d+(?:[.,]\d+)*(?![^\W_]|[.,]\d)")
_DIGITS = re.compile(r"\d+(?:[.,]\d+)*")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_WORD = re.compile(r"[^\W_]+")
_SENTENCE_START = re.compile(r"""(?:^|[.!?:;\n•*。！？])[\s"'“‘(\[#>*-]*$""")
_LOOK_BACK = 12  # characters: white space and quotes between two sentences are fewer


def unsupported_numbers(samples: Sequence[Sample]) -> list[float]:
    """Share of the text's numbers that do not stand in the input, in [0, 1]; 0 for a text without numbers.

    "1,000" is 1000, but "3.0" is not 3, and "two" is no number.
    """
    return [_unsupported_numbers(sample.text, sample.row.input) for sample in samples]


def unsupported_names(samples: Sequence[Sample]) -> list[float]:
    """Share of the text's names that do not stand in the input, in [0, 1]; 0 for a text without names.

    A name is a word that looks like one (see `names_of`). It is compared without case, as a whole word but for a plural
    s: "APIs" stands in "an API".
    """
    return [_unsupported_names(sample.text, sample.row.input) for sample in samples]


def names_of(text: str) -> list[str]:
    """The words, runs of letters and digits, that look like names, in order.

    These are: words with capitals beyond the first letter (LaTeX, DNA), words of letters and digits (mp3), and
    capitalised words that do not begin the text or a sentence, except "I".
    """
    return [word.group() for word in _WORD.finditer(text) if _looks_like_a_name(text, word)]


def _looks_like_a_name(text: str, word: re.Match[str]) -> bool:
    letters = word.group()
    if letters.isdigit() or letters == "I":
        return False
    if any(letter.isdigit() for letter in letters):
        return any(letter.isalpha() for letter in letters)
    if any(letter.isupper() for letter in letters[1:]):
        return True
    before = text[max(0, word.start() - _LOOK_BACK) : word.start()]
    # Cut short, the text before must not look like the beginning of everything.
    return letters[0].isupper() and not _SENTENCE_START.search(before if word.start() <= _LOOK_BACK else f"x{before}")


def _unsupported_numbers(text: str, source: str) -> float:
    known = {_plain(number) for number in _DIGITS.findall(source)}
    numbers = [_plain(number) for number in _NUMBER.findall(text)]
    return _share(sum(number not in known for number in numbers), len(numbers))


def _unsupported_names(text: str, source: str) -> float:
    known = set(words_of(source))
    known |= {word.removesuffix("s") for word in known} | {f"{word}s" for word in known}
    names = [name.casefold() for name in names_of(text)]
    return _share(sum(name not in known for name in names), len(names))


def _plain(number: str) -> str:
    return _THOUSANDS.sub("", number)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
