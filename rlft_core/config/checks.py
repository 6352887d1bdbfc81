"""The named checks that a `rules` or `format` reward counts.

Only says what is checked; the checking is in `rlft_core.rewards.rules`. White space around a text never counts.
Imports no torch.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, model_validator

from rlft_core.config.base import Strict

RESERVED_CHECK_NAMES = frozenset({"share", "all"})


def valid_pattern(pattern: str) -> str:
    """The pattern itself, when `re` can compile it. ValueError naming it otherwise."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    return pattern


def no_blank_words(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words themselves, when there is at least one and none is blank. ValueError otherwise."""
    if not words or any(not word.strip() for word in words):
        raise ValueError(f"needs at least one word and no empty one, got {list(words)}")
    return words


Pattern = Annotated[str, AfterValidator(valid_pattern)]
Words = Annotated[tuple[str, ...], AfterValidator(no_blank_words)]


class _Check(Strict):
    check: str
    """Which check this is."""
    name: str | None = Field(default=None, min_length=1, pattern=r"^[^/]+$")
    """Name in the breakdown. Default: the check itself."""

    @property
    def label(self) -> str:
        """The check's name in the breakdown."""
        return self.name or self.check

    @property
    def fields_needed(self) -> frozenset[str]:
        """Columns of a row that the check reads."""
        return frozenset()


class OneLineCheck(_Check):
    """Not empty, and no line break inside."""

    check: Literal["one_line"] = "one_line"
    """Which check this is."""


class EndsProperlyCheck(_Check):
    """The model ended by itself (EOS) and was not cut off at the token limit."""

    check: Literal["ends_properly"] = "ends_properly"
    """Which check this is."""


class MaxCharsCheck(_Check):
    """At most `value` characters."""

    check: Literal["max_chars"] = "max_chars"
    """Which check this is."""
    value: PositiveInt
    """Most characters allowed."""


class WordsCheck(_Check):
    """Between `min` and `max` words, both included; words are separated by white space."""

    check: Literal["words"] = "words"
    """Which check this is."""
    min: NonNegativeInt = 0
    """Fewest words allowed."""
    max: PositiveInt | None = None
    """Most words allowed; none means any number."""

    @model_validator(mode="after")
    def _range(self) -> WordsCheck:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max ({self.max}) is below min ({self.min})")
        return self


class NoFinalPeriodCheck(_Check):
    """Does not end in a full stop or an ellipsis."""

    check: Literal["no_final_period"] = "no_final_period"
    """Which check this is."""


class NoLeadingArticleCheck(_Check):
    """Does not begin with one of `words` (whole word, any case)."""

    check: Literal["no_leading_article"] = "no_leading_article"
    """Which check this is."""
    words: Words = ("a", "an", "the", "this")
    """Words it may not begin with."""


class NotStartingWithCheck(_Check):
    """Does not begin with one of `values` (as typed, any case, also inside a word)."""

    check: Literal["not_starting_with"] = "not_starting_with"
    """Which check this is."""
    values: Words
    """Beginnings that are not allowed."""


class NoWordsOfFieldCheck(_Check):
    """Does not contain the value of a column of the row (whole words, any case)."""

    check: Literal["no_words_of_field"] = "no_words_of_field"
    """Which check this is."""
    field: str = Field(min_length=1)
    """Column of the row, for instance `package`."""
    match: Literal["phrase", "any_word"] = "phrase"
    """`phrase`: the value as a whole. `any_word`: any single word of it."""

    @property
    def fields_needed(self) -> frozenset[str]:
        return frozenset({self.field})


class RegexCheck(_Check):
    """A regular expression is found, or is not found, anywhere in the text."""

    check: Literal["regex"] = "regex"
    """Which check this is."""
    pattern: Pattern
    """Python regular expression; `(?i)` in front ignores case."""
    mode: Literal["must_match", "must_not_match"] = "must_match"
    """Whether finding it is right or wrong."""


class JsonCheck(_Check):
    """The text is one valid JSON value, as RFC 8259 has it (no NaN, no Infinity)."""

    check: Literal["json"] = "json"
    """Which check this is."""
    object: bool = False
    """The value must be an object, `{...}`."""


PlainCheck = Annotated[
    OneLineCheck
    | EndsProperlyCheck
    | MaxCharsCheck
    | WordsCheck
    | NoFinalPeriodCheck
    | NoLeadingArticleCheck
    | NotStartingWithCheck
    | NoWordsOfFieldCheck
    | RegexCheck
    | JsonCheck,
    Field(discriminator="check"),
]


def _some(checks: tuple[PlainCheck, ...]) -> tuple[PlainCheck, ...]:
    if not checks:
        raise ValueError("all_of needs at least one check")
    return checks


class AllOfCheck(_Check):
    """Several checks that count as one: passed when all of them are."""

    check: Literal["all_of"] = "all_of"
    """Which check this is."""
    checks: Annotated[tuple[PlainCheck, ...], AfterValidator(_some)]
    """The checks to combine."""

    @property
    def fields_needed(self) -> frozenset[str]:
        return frozenset().union(*(check.fields_needed for check in self.checks))


Check = Annotated[PlainCheck | AllOfCheck, Field(discriminator="check")]


def distinct_labels(checks: tuple[Check, ...]) -> tuple[Check, ...]:
    """The checks themselves, when there is one, their names differ and none is reserved. ValueError otherwise."""
    # Not pydantic's min_length: that also complains of an empty list when an item in it is wrong.
    if not checks:
        raise ValueError("needs at least one check, for instance {check: one_line}")
    seen: set[str] = set()
    for check in checks:
        label = check.label
        if label in RESERVED_CHECK_NAMES:
            raise ValueError(f"a check may not be called {label!r}: the breakdown uses that name itself")
        if label in seen:
            raise ValueError(f"two checks are called {label!r}: give one of them another `name`")
        seen.add(label)
    return checks
