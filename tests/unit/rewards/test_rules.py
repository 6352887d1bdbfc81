"""The rules reward: each check on texts that pass and fail, the share, the bonus, the breakdown."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter

from rlft_core.config.checks import Check
from rlft_core.config.rewards import FormatConfig, RulesConfig
from rlft_core.errors import RewardError
from rlft_core.rewards.protocol import Sample
from rlft_core.rewards.rules import RulesReward, passes
from rlft_core.types import Row

CHECK: TypeAdapter[Check] = TypeAdapter(Check)


def sample(text: str, *, package: str = "glimpse", finish: str = "stop") -> Sample:
    return Sample(Row("r1", "in", "out", {"package": package}), text, np.zeros(2, dtype=np.int32), finish)


@pytest.mark.parametrize(
    "check, good, bad",
    [
        ({"check": "one_line"}, [" one line \n", "a"], ["two\nlines", "", " \n", "a\u2028b"]),
        ({"check": "max_chars", "value": 4}, ["four", " four\n", ""], ["fiver"]),
        ({"check": "words", "min": 2, "max": 3}, ["a b", "a b c"], ["a", "a b c d", ""]),
        ({"check": "words", "min": 1}, ["a", "a " * 99], [" "]),
        ({"check": "no_final_period"}, ["RRD file daemon", "v1.0 x"], ["Ends.", "Ends. ", "and so…"]),
        (
            {"check": "no_leading_article"},
            ["Theory prover", "analysis", "simple", "thistle"],
            ["The tool", "a tool", 'An "x"', "This is", "THE-best", "a"],
        ),
        ({"check": "no_leading_article", "words": ["le", "la"]}, ["the x"], ["La machine"]),
        ({"check": "not_starting_with", "values": ["sure", "here is"]}, ["A tool"], ["Sure!", "Here is a", "surely"]),
        (
            {"check": "no_words_of_field", "field": "package"},
            ["glimpses of it", "search tool", "myglimpse"],
            ["Glimpse for Unix", "the GLIMPSE", "x (glimpse)", "glimpse-based"],
        ),
        ({"check": "regex", "pattern": "^[A-Z]"}, ["Upper", "  Upper"], ["lower"]),
        ({"check": "regex", "pattern": "lorem", "mode": "must_not_match"}, ["x"], ["lorem"]),
        ({"check": "json"}, ['{"a": [1, 2]}', "3", ' "x" '], ["{'a': 1}", "", "NaN", "{} {}", "[" * 100_000]),
        ({"check": "json", "object": True}, ["{}"], ["[]", "3"]),
        (
            {"check": "all_of", "checks": [{"check": "one_line"}, {"check": "max_chars", "value": 3}]},
            ["abc"],
            ["abcd", "a\nb", "abcd\ne"],
        ),
    ],
)
def test_each_check(check: dict[str, object], good: list[str], bad: list[str]) -> None:
    parsed = CHECK.validate_python(check)
    assert {text: passes(sample(text), parsed) for text in good} == dict.fromkeys(good, True)
    assert {text: passes(sample(text), parsed) for text in bad} == dict.fromkeys(bad, False)


def test_the_end_is_the_finish_reason() -> None:
    check = CHECK.validate_python({"check": "ends_properly"})
    assert passes(sample("x"), check)
    assert not passes(sample("x", finish="length"), check)


def test_a_field_may_hold_signs_and_several_words() -> None:
    phrase = CHECK.validate_python({"check": "no_words_of_field", "field": "package"})
    assert not passes(sample("A C++ compiler", package="c++"), phrase)
    assert passes(sample("A C compiler", package="c++"), phrase)
    assert passes(sample("games", package="gnome games"), phrase)
    any_word = CHECK.validate_python({"check": "no_words_of_field", "field": "package", "match": "any_word"})
    assert not passes(sample("games", package="gnome games"), any_word)
    assert passes(sample("anything", package=""), phrase)


def test_a_missing_column_is_named_with_those_there_are() -> None:
    check = CHECK.validate_python({"check": "no_words_of_field", "field": "pakage"})
    with pytest.raises(RewardError, match=r"'pakage', which row 'r1' lacks \(its columns: package"):
        passes(sample("x"), check)


def synopsis_rules(all_bonus: float) -> RulesReward:
    return RulesReward.from_rules(
        RulesConfig.model_validate(
            {
                "type": "rules",
                "all_bonus": all_bonus,
                "checks": [
                    {
                        "check": "all_of",
                        "name": "shape",
                        "checks": [
                            {"check": "ends_properly"},
                            {"check": "max_chars", "value": 80},
                            {"check": "one_line"},
                        ],
                    },
                    {"check": "no_final_period"},
                    {"check": "no_leading_article"},
                    {"check": "no_words_of_field", "field": "package"},
                    {"check": "words", "min": 2, "max": 12},
                ],
            }
        )
    )


def test_the_synopsis_rules_share_bonus_and_breakdown() -> None:
    passing, failing = synopsis_rules(0.4)([sample("RRD file daemon"), sample("The glimpse tool.", finish="length")])
    names = ["shape", "no_final_period", "no_leading_article", "no_words_of_field", "words", "share", "all"]
    assert passing[0] == 1.0
    assert list(passing[1].items()) == [(name, 1.0) for name in names]
    value, details = failing
    assert value == pytest.approx(0.6 * 1 / 5, abs=1e-12)
    failed = ["shape", "no_final_period", "no_leading_article", "no_words_of_field", "all"]
    assert details == {"words": 1, "share": 0.2} | dict.fromkeys(failed, 0)


@pytest.mark.parametrize("all_bonus, expected", [(0.0, 0.8), (0.4, 0.48), (1.0, 0.0)])
def test_the_bonus_mixes_share_and_all(all_bonus: float, expected: float) -> None:
    [(value, _)] = synopsis_rules(all_bonus)([sample("RRD file daemon.")])
    assert value == pytest.approx(expected, abs=1e-12)


def test_format_gives_the_share_or_all() -> None:
    text = sample("The short one")
    share = RulesReward.from_format(FormatConfig(one_line=True, max_chars=80, no_leading_article=True))
    every = RulesReward.from_format(FormatConfig(one_line=True, max_chars=80, no_leading_article=True, mode="all"))
    assert share([text])[0][0] == pytest.approx(2 / 3, abs=1e-12)
    assert every([text])[0][0] == 0.0
    assert every([sample("Short one")])[0][0] == 1.0
