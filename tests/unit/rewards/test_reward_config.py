"""Reward configurations: what parses, what is refused, and that the refusal names the mistake."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from rlft_core.config.rewards import (
    CustomConfig,
    EmbeddingSimilarityConfig,
    FormatConfig,
    LengthConfig,
    RepetitionConfig,
    RewardConfigs,
    RulesConfig,
)

REWARDS = TypeAdapter(RewardConfigs)


def test_every_type_parses_from_plain_values() -> None:
    plain: list[dict[str, object]] = [
        {"type": "length", "unit": "words", "min": 2, "max": 12, "tolerance": 3},
        {"type": "regex", "pattern": "^[A-Z]", "mode": "must_match"},
        {"type": "rules", "checks": [{"check": "max_chars", "value": 80}]},
        {"type": "format", "one_line": True},
        {"type": "ends_properly"},
        {"type": "repetition", "weight": 0.3},
        {"type": "embedding_similarity", "against": "input"},
        {"type": "exact_match"},
        {"type": "rouge", "variant": "rougeL"},
        {"type": "custom", "function": "my.rewards:polite", "params": {"level": 2}},
    ]
    parsed = REWARDS.validate_python(plain)
    assert [reward.type for reward in parsed] == [entry["type"] for entry in plain]
    assert [reward.label for reward in parsed] == [entry["type"] for entry in plain]
    assert [reward.weight for reward in parsed] == [1.0, 1.0, 1.0, 1.0, 1.0, 0.3, 1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "entry, named",
    [
        ({"type": "lenght", "min": 1}, "lenght"),
        ({"type": "length", "minimum": 1}, "minimum"),
        ({"type": "length"}, "needs `min`, `max` or both"),
        ({"type": "length", "min": 9, "max": 3}, r"max \(3\) is below min \(9\)"),
        ({"type": "length", "max": 3, "tolerance": -1}, "tolerance"),
        ({"type": "length", "max": 3, "weight": float("nan")}, "weight"),
        ({"type": "length", "max": 3, "weight": float("inf")}, "weight"),
        ({"type": "length", "max": 3, "name": "a/b"}, "name"),
        ({"type": "length", "max": 3, "name": "total"}, "'total'"),
        ({"type": "regex", "pattern": "(unclosed"}, r"\(unclosed.*not a regular expression"),
        ({"type": "regex", "pattern": "a", "mode": "sometimes"}, "mode"),
        ({"type": "rules", "checks": []}, "at least one check"),
        ({"type": "rules", "checks": [{"check": "max_char", "value": 8}]}, "max_char"),
        ({"type": "rules", "checks": [{"check": "max_chars"}]}, "value"),
        (
            {"type": "rules", "checks": [{"check": "one_line"}, {"check": "one_line"}]},
            "two checks are called 'one_line'",
        ),
        ({"type": "rules", "checks": [{"check": "one_line", "name": "all"}]}, "'all'"),
        ({"type": "rules", "checks": [{"check": "one_line"}], "all_bonus": 1.5}, "all_bonus"),
        ({"type": "rules", "checks": [{"check": "regex", "pattern": "["}]}, "not a regular expression"),
        ({"type": "rules", "checks": [{"check": "words", "min": 5, "max": 2}]}, "below min"),
        ({"type": "rules", "checks": [{"check": "no_leading_article", "words": []}]}, "at least one word"),
        ({"type": "rules", "checks": [{"check": "not_starting_with", "values": [" "]}]}, "no empty one"),
        ({"type": "rules", "checks": [{"check": "all_of", "checks": [{"check": "all_of", "checks": []}]}]}, "all_of"),
        ({"type": "rules", "checks": [{"check": "all_of", "checks": []}]}, "all_of needs at least one check"),
        ({"type": "format"}, "checks nothing"),
        ({"type": "repetition", "weight": -0.3}, "weight"),
        ({"type": "repetition", "ngram": 0}, "ngram"),
        ({"type": "embedding_similarity", "against": "prompt"}, "against"),
        ({"type": "custom", "function": "no_colon"}, "function"),
        ({"type": "custom", "function": "os:system; rm"}, "function"),
    ],
)
def test_a_mistake_is_refused_and_named(entry: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        REWARDS.validate_python([entry])


def test_a_list_of_rewards_needs_one_and_different_names() -> None:
    with pytest.raises(ValidationError, match="at least one reward"):
        REWARDS.validate_python([])
    twice = {"type": "length", "max": 3}
    with pytest.raises(ValidationError, match="two rewards are called 'length'"):
        REWARDS.validate_python([twice, twice])
    assert [r.label for r in REWARDS.validate_python([twice, twice | {"name": "short"}])] == ["length", "short"]


def test_a_wrong_item_is_the_only_complaint() -> None:
    with pytest.raises(ValidationError) as caught:
        REWARDS.validate_python([{"type": "rules", "checks": [{"check": "max_chars", "value": 0}]}])
    assert [error["loc"] for error in caught.value.errors()] == [(0, "rules", "checks", 0, "max_chars", "value")]


def test_configurations_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RepetitionConfig().weight = 2.0  # type: ignore[misc]


def test_rewards_say_what_they_read() -> None:
    rules = REWARDS.validate_python(
        [
            {
                "type": "rules",
                "checks": [
                    {"check": "one_line"},
                    {"check": "all_of", "checks": [{"check": "no_words_of_field", "field": "package"}]},
                ],
            }
        ]
    )[0]
    assert rules.fields_needed == {"package"}
    assert not rules.needs_reference
    assert CustomConfig(function="m:f", fields=("tone",)).fields_needed == {"tone"}
    assert EmbeddingSimilarityConfig().needs_reference
    assert not EmbeddingSimilarityConfig(against="input").needs_reference
    assert LengthConfig(max=3).fields_needed == frozenset()


def test_format_writes_checks_short() -> None:
    config = FormatConfig(one_line=True, max_chars=80, no_final_period=True, json_value="object")
    assert [check.label for check in config.checks] == ["one_line", "max_chars", "no_final_period", "json"]


def test_every_field_has_a_description() -> None:
    for model in (RulesConfig, LengthConfig, FormatConfig, CustomConfig, EmbeddingSimilarityConfig):
        assert all(info.description for info in model.model_fields.values())


def test_configuration_and_its_check_import_no_torch() -> None:
    code = "import sys, rlft_core.rewards.check; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
