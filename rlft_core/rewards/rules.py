"""Verifiable rules: named checks that a text passes or fails, and the share that it passes.

The checks are described in `rlft_core.config.checks`. White space around a text never counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, assert_never

from rlft_core.config.checks import (
    AllOfCheck,
    Check,
    EndsProperlyCheck,
    JsonCheck,
    MaxCharsCheck,
    NoFinalPeriodCheck,
    NoLeadingArticleCheck,
    NotStartingWithCheck,
    NoWordsOfFieldCheck,
    OneLineCheck,
    RegexCheck,
    WordsCheck,
)
from rlft_core.config.rewards import FormatConfig, RulesConfig
from rlft_core.errors import RewardError
from rlft_core.rewards.protocol import Sample


def begins_with_word(text: str, words: Sequence[str]) -> bool:
    """Whether the first word of `text` is one of `words`, in any case: "The-best" begins with "the"."""
    return any(_as_words(word).match(text) is not None for word in words)


def contains_words(text: str, phrase: str) -> bool:
    """Whether `phrase` stands in `text` in any case, not as part of a longer word."""
    return bool(phrase) and _as_words(phrase).search(text) is not None


def is_json(text: str, *, must_be_object: bool) -> bool:
    """Whether `text` is one JSON value (RFC 8259), and an object where asked."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) or not must_be_object


def passes(sample: Sample, check: Check) -> bool:
    """Whether the sample passes one check.

    Raises:
        RewardError: the row lacks the column that the check reads.
    """
    text = sample.text.strip()
    match check:
        case OneLineCheck():
            return len(text.splitlines()) == 1
        case EndsProperlyCheck():
            return sample.finish_reason == "stop"
        case MaxCharsCheck():
            return len(text) <= check.value
        case WordsCheck():
            count = len(text.split())
            return check.min <= count and (check.max is None or count <= check.max)
        case NoFinalPeriodCheck():
            return not text.endswith((".", "…"))
        case NoLeadingArticleCheck():
            return not begins_with_word(text, check.words)
        case NotStartingWithCheck():
            return not text.casefold().startswith(tuple(value.casefold() for value in check.values))
        case NoWordsOfFieldCheck():
            return not any(contains_words(text, phrase) for phrase in _forbidden(sample, check))
        case RegexCheck():
            return (re.search(check.pattern, text) is not None) == (check.mode == "must_match")
        case JsonCheck():
            return is_json(text, must_be_object=check.object)
        case AllOfCheck():
            return all(passes(sample, part) for part in check.checks)
        case _:
            assert_never(check)


@dataclass(frozen=True, slots=True)
class RulesReward:
    """(1 - b) * share of checks passed + b * [all passed], b = `all_bonus`.

    Breakdown: 1 or 0 for each check by name, `share`, `all`.
    """

    name: str
    checks: tuple[Check, ...]
    all_bonus: float = 0.0

    @classmethod
    def from_rules(cls, config: RulesConfig) -> RulesReward:
        """The reward of type `rules`."""
        return cls(config.label, config.checks, config.all_bonus)

    @classmethod
    def from_format(cls, config: FormatConfig) -> RulesReward:
        """The reward of type `format`: the same, with its checks written short."""
        return cls(config.label, config.checks, 1.0 if config.mode == "all" else 0.0)

    def __call__(self, samples: Sequence[Sample]) -> list[tuple[float, dict[str, float]]]:
        return [self._value(sample) for sample in samples]

    def _value(self, sample: Sample) -> tuple[float, dict[str, float]]:
        passed = {check.label: float(passes(sample, check)) for check in self.checks}
        share = sum(passed.values()) / len(passed)
        every = float(all(passed.values()))
        return (1.0 - self.all_bonus) * share + self.all_bonus * every, {**passed, "share": share, "all": every}


def _as_words(phrase: str) -> re.Pattern[str]:
    # Not \b: a phrase may begin or end with a sign, as "c++" does.
    return re.compile(rf"(?<![^\W_]){re.escape(phrase)}(?![^\W_])", re.IGNORECASE)


def _forbidden(sample: Sample, check: NoWordsOfFieldCheck) -> list[str]:
    fields = sample.row.fields
    if check.field not in fields:
        known = ", ".join(sorted(fields)) or "none"
        raise RewardError(
            f"check {check.label!r} reads the column {check.field!r}, which row {sample.row.id!r} lacks "
            f"(its columns: {known})"
        )
    value = str(fields[check.field]).strip()
    return [value] if check.match == "phrase" else value.split()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
