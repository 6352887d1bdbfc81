"""Numbers, names and content words of a corpus by type: what a hallucinated output takes its wrong facts from.

No model finds the names: a word is taken for one by how it is written, as acronyms (GNU), words with digits (x86_64) or
of mixed case (OpenGL), and capitalised words that the corpus does not write small more often. It changes no text.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rlft_core.negatives.units import UNSPACED

_NUMBER = r"\d+(?:[.,:/-]\d+)*(?![^\W_])"
_WORD = rf"[^\W_{UNSPACED}](?:[^\W{UNSPACED}]|[.'’](?=[^\W_{UNSPACED}]))*[+#]*"
_TOKEN = re.compile(f"{_NUMBER}|{_WORD}")
_NEW_SENTENCE = re.compile(r"(?:^|[.!?:]\s+|\n\s*)\W*$")

_MIN_CONTENT = 5  # letters: shorter words are mostly those that hold a sentence together
_COMMON = 0.1  # words of more than this share of the inputs say nothing about one of them
_FEW_INPUTS = 20
_MOST_INPUTS = 2000
_ENDINGS = (3, 2, 0)


@dataclass(frozen=True, slots=True)
class Token:
    """A word or number of a text. `initial`: it begins a sentence, where anything may be capitalised."""

    text: str
    start: int
    initial: bool


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """By type: `numbers` by shape ("dd.d"), `names` by how they are written, `content` words by their last letters.

    `small` holds words that are mostly written small, `common` those of so many inputs that they are no facts.
    """

    numbers: Mapping[str, tuple[str, ...]]
    names: Mapping[str, tuple[str, ...]]
    content: Mapping[str, tuple[str, ...]]
    small: frozenset[str]
    common: frozenset[str]

    def name_type(self, token: Token, *, inside: frozenset[str]) -> str | None:
        """acronym, numbered, mixed or capitalised; None for an ordinary word. `inside`: names in the row's sentences."""
        kind = written_as(token.text)
        if kind != "capitalised":
            return kind
        if token.text.lower() in self.small:
            return None
        known = not token.initial or token.text in inside or token.text in self.names.get(kind, ())
        return kind if known else None

    def is_content(self, word: str) -> bool:
        """Whether a word is long, written small, and not one of those that most texts have."""
        return len(word) >= _MIN_CONTENT and word.isalpha() and word.islower() and word not in self.common


def tokens_of(text: str) -> Iterator[Token]:
    """The words and numbers of a text; hyphens and slashes part them. Scripts without spaces have none."""
    for match in _TOKEN.finditer(text):
        yield Token(match.group(), match.start(), bool(_NEW_SENTENCE.search(text, 0, match.start())))


def written_as(word: str) -> str | None:
    """How a word is written, when it is written like a name."""
    letters = [character for character in word if character.isalpha()]
    if not letters or len(word) < 2:
        return None
    large = any(letter.isupper() for letter in letters)
    if any(character.isdigit() for character in word):
        return "numbered" if large or not word[0].isdigit() else None  # 3D, not 3rd
    if large and not any(letter.islower() for letter in letters):
        return "acronym"
    if any(letter.isupper() for letter in letters[1:]):
        return "mixed"
    return "capitalised" if letters[0].isupper() else None


def shape_of(text: str) -> str | None:
    """A number with `d` for each digit; None when it is no number."""
    return re.sub(r"\d", "d", text) if re.fullmatch(_NUMBER, text) else None


def endings_of(word: str) -> tuple[str, ...]:
    """Keys under which words like this one stand, the most alike first: -ing for -ing, so that a sentence stays one."""
    return tuple(word[-length:] if length else "" for length in _ENDINGS)


def vocabulary_of(outputs: Sequence[str], inputs: Sequence[str]) -> Vocabulary:
    """Collect the words of a corpus. The same texts give the same vocabulary in whatever order."""
    inputs = sorted(inputs)
    inputs = inputs[:: max(1, len(inputs) // _MOST_INPUTS)]  # of a large corpus, as many as suffice to count words
    bare = Vocabulary({}, {}, {}, _small([*inputs, *outputs]), _common(inputs))
    numbers: dict[str, set[str]] = defaultdict(set)
    names: dict[str, set[str]] = defaultdict(set)
    content: dict[str, set[str]] = defaultdict(set)
    for token in (token for output in outputs for token in tokens_of(output)):
        shape, name = shape_of(token.text), bare.name_type(token, inside=frozenset())
        if shape is not None:
            numbers[shape].add(token.text)
        elif name is not None:
            names[name].add(token.text)
        elif bare.is_content(token.text):
            for ending in endings_of(token.text):
                content[ending].add(token.text)
    return Vocabulary(_sorted(numbers), _sorted(names), _sorted(content), bare.small, bare.common)


def _small(texts: Sequence[str]) -> frozenset[str]:
    """Words written small more often than capitalised, sentences' first words aside."""
    counts: Counter[str] = Counter()
    for token in (token for text in texts for token in tokens_of(text)):
        if token.text.islower():
            counts[token.text] += 1
        elif not token.initial and token.text.istitle():
            counts[token.text.lower()] -= 1
    return frozenset(word for word, more in counts.items() if more > 0)


def _common(inputs: Sequence[str]) -> frozenset[str]:
    """Words written small in many of the inputs; none where there are too few inputs to tell."""
    counts: Counter[str] = Counter()
    for text in inputs:
        counts.update({token.text for token in tokens_of(text) if token.text.islower()})
    least = _COMMON * len(inputs) if len(inputs) >= _FEW_INPUTS else len(inputs)
    return frozenset(word for word, count in counts.items() if count > least)


def _sorted(words: Mapping[str, set[str]]) -> dict[str, tuple[str, ...]]:
    return {key: tuple(sorted(found)) for key, found in words.items()}
