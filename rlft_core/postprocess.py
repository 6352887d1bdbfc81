"""Cuts a finished output, as a recipe's `postprocess` says: for any system's outputs, in evaluation and in serving.

Text in, text out. Every step but the first only takes something off the end, so what is left stands in the text as it
was written. Knows no model and no tokens.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from rlft_core.config.postprocess import PostprocessConfig

_ABBREVIATION = re.compile(
    r"(?:a\.k\.a|al|approx|ca|cf|co|corp|dept|dr|e\.g|est|etc|i\.e|inc|incl|jr|ltd|mr|mrs|ms|prof|resp|sr|st|u\.k|u\.s|"
    r"viz|vs)\.",
    re.IGNORECASE,
)
# Only where a number follows: "No. 5", but "Is it free? No. It is not."
_BEFORE_NUMBER = re.compile(r"(?:ch|eq|fig|max|min|no|nos|p|pp|sec|v|ver|vol)\.", re.IGNORECASE)

# A mark of the Latin kind ends a sentence before white space only; full-width marks stand in scripts without spaces.
_CLOSERS = "\"'”’»)]"
_MARK = re.compile(r"""[.!?]+["'”’»)\]]*(?=\s|$)|[。！？]+["'”’」』）]*""")
_UNSPACED = re.compile(  # Thai to Lao, Burmese, Khmer, Japanese and Chinese with their punctuation, full-width forms
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef"
    "\U00020000-\U0003ffff]"
)
_TOKEN = re.compile(r"\S+")
_LONGEST_TOKEN = 40  # no abbreviation is longer: bounds the looking back
_OUTSIDE = re.compile(r"^[\W_]+|[\W_]+$")


def postprocess(text: str, config: PostprocessConfig) -> str:
    """`text` after the steps that are switched on, in the order of the configuration's keys, without outer white space.

    Doing it twice changes nothing more: the steps are repeated until none of them finds anything. Any text is taken;
    what is left may be empty.
    """
    while True:
        shorter = _once(text, config)
        if shorter == text:
            return text
        text = shorter


def _once(text: str, config: PostprocessConfig) -> str:
    text = text.strip()
    if config.strip_prefixes is not None:
        text = without_prefixes(text, config.strip_prefixes)
    if config.first_line:
        text = first_line(text)
    if config.first_sentence:
        text = first_sentence(text)
    if config.cut_repetition is not None:
        text = before_repetition(text, num_words=config.cut_repetition)
    if config.max_words is not None:
        text = first_words(text, config.max_words)
    if config.max_chars is not None:
        text = first_chars(text, config.max_chars)
    if config.strip_final:
        text = text.rstrip(config.strip_final)
    return text.strip()


def without_prefixes(text: str, prefixes: Sequence[str]) -> str:
    """`text` without these beginnings, in any case and however often; a word is only removed as a whole word."""
    longest_first = sorted((prefix.strip() for prefix in prefixes), key=len, reverse=True)
    patterns = [re.compile(re.escape(prefix) + _word_end(prefix), re.IGNORECASE) for prefix in longest_first]
    text = text.lstrip()
    while found := next((match for pattern in patterns if (match := pattern.match(text))), None):
        text = text[found.end() :].lstrip()
    return text


def first_line(text: str) -> str:
    """The first line that is not blank, without outer white space."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def first_sentence(text: str) -> str:
    """Up to and with the first mark that ends a sentence; the whole text when there is none.

    A mark is . ! or ? before white space or the end, or 。！？ anywhere, with the quotes and brackets that close after
    it. A full stop ends nothing after an abbreviation ("e.g."), a single capital ("J. Smith") or the number of a list
    ("1. ") at the very start.
    """
    for mark in _MARK.finditer(text):
        ends_in_one_stop = mark.group().rstrip(_CLOSERS) == "."
        if not (ends_in_one_stop and _is_abbreviated(text, mark.start() + 1)):
            return text[: mark.end()]
    return text


def before_repetition(text: str, *, num_words: int) -> str:
    """Up to the first run of `num_words` words that stood in the text before that run, in any case.

    Words are separated by white space and compared without the punctuation around them; what is punctuation only is no
    word. The two runs do not overlap: in "so so so so", two words stood there before at the third.
    """
    words = [(_OUTSIDE.sub("", token.group()).casefold(), token.start()) for token in _TOKEN.finditer(text)]
    words = [(word, start) for word, start in words if word]
    runs = [tuple(word for word, _ in words[at : at + num_words]) for at in range(len(words) - num_words + 1)]
    seen: set[tuple[str, ...]] = set()
    for at, run in enumerate(runs):
        if at >= num_words:
            seen.add(runs[at - num_words])
        if run in seen:
            return text[: words[at][1]].rstrip()
    return text


def first_words(text: str, num_words: int) -> str:
    """The first words, separated by white space, as they stand there."""
    for count, token in enumerate(_TOKEN.finditer(text), start=1):
        if count == num_words:
            return text[: token.end()]
    return text


def first_chars(text: str, num_chars: int) -> str:
    """At most `num_chars` characters, cut between words.

    Scripts without spaces are cut between characters, and so is a first word that is longer than all of it.
    """
    text = text.strip()
    if len(text) <= num_chars:
        return text
    for at in range(num_chars, 0, -1):
        if _may_cut(text[at - 1], text[at]):
            return text[:at].rstrip()
    return text[:num_chars]


def _may_cut(before: str, after: str) -> bool:
    if after.isspace() or before.isspace():
        return True
    unspaced = _UNSPACED.match(before) or _UNSPACED.match(after)
    return unspaced is not None and not unicodedata.category(after).startswith("M")  # a mark belongs to its letter


def _word_end(prefix: str) -> str:
    """As a pattern: "The" is no beginning of "Theory". Where words are not spaced, there is no telling."""
    return r"(?![^\W_])" if prefix[-1].isalnum() and not _UNSPACED.match(prefix[-1]) else ""


def _is_abbreviated(text: str, end: int) -> bool:
    """Whether the full stop before `end` belongs to the word before it."""
    token = re.split(r"[\s(\[\"'“‘/]", text[max(0, end - _LONGEST_TOKEN) : end])[-1]
    if _ABBREVIATION.fullmatch(token):
        return True
    if _BEFORE_NUMBER.fullmatch(token):
        return text[end:].lstrip()[:1].isdigit()
    letter = token[-2:-1]
    if letter.isupper() and not token[-3:-2].isalnum():
        return True
    return token[:-1].isdigit() and not text[: end - len(token)].strip()
