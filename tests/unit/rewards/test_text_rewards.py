"""Length, pattern, ending, repetition, exact match and ROUGE against literal values and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlft_core.config.rewards import (
    EndsProperlyConfig,
    ExactMatchConfig,
    LengthConfig,
    RegexConfig,
    RepetitionConfig,
    RougeConfig,
)
from rlft_core.errors import RewardError
from rlft_core.rewards.length import LengthReward, length_reward
from rlft_core.rewards.protocol import Sample
from rlft_core.rewards.rouge import rouge_f1
from rlft_core.rewards.text import (
    EndsProperlyReward,
    ExactMatchReward,
    RegexReward,
    RepetitionReward,
    RougeReward,
    normalised,
    repetition,
)
from rlft_core.types import Row


def sample(text: str, *, output: str = "", tokens: int = 3, finish: str = "stop") -> Sample:
    return Sample(Row("r1", "some input", output), text, np.arange(tokens, dtype=np.int32), finish)


@pytest.mark.parametrize(
    "length, low, high, tolerance, expected",
    [
        (5, 2, 12, 4, 1.0),
        (2, 2, 12, 4, 1.0),
        (12, 2, 12, 4, 1.0),
        (13, 2, 12, 4, 0.75),
        (15, 2, 12, 4, 0.25),
        (16, 2, 12, 4, 0.0),
        (99, 2, 12, 4, 0.0),
        (1, 2, 12, 4, 0.75),
        (0, 2, 12, 4, 0.5),
        (13, 2, 12, 0, 0.0),
        (99, 2, None, 0, 1.0),
    ],
)
def test_length_falls_linearly(length: int, low: int, high: int | None, tolerance: int, expected: float) -> None:
    assert length_reward(length, low=low, high=high, tolerance=tolerance) == expected


def test_length_counts_the_unit_asked_for() -> None:
    given_sample = sample(" two words ", tokens=7)
    for unit, count in (("words", 2.0), ("characters", 9.0), ("tokens", 7.0)):
        config = LengthConfig.model_validate({"type": "length", "unit": unit, "max": 1})
        assert LengthReward(config)([given_sample]) == [(0.0, {unit: count})]


def test_regex_must_and_must_not_match() -> None:
    samples = [sample("ends here."), sample("goes on")]
    assert RegexReward(RegexConfig(pattern=r"\.$"))(samples) == [1.0, 0.0]
    assert RegexReward(RegexConfig(pattern=r"\.$", mode="must_not_match"))(samples) == [0.0, 1.0]


def test_ends_properly_is_the_finish_reason() -> None:
    samples = [sample("a"), sample("a", finish="length")]
    assert EndsProperlyReward(EndsProperlyConfig(name="eos"))(samples) == [1.0, 0.0]
    assert EndsProperlyReward(EndsProperlyConfig(name="eos")).name == "eos"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", 0.0),
        ("one", 0.0),
        ("a simple maze game", 0.0),
        ("of the x of the y", 0.2),  # bigrams: of-the twice among 5; no long words
        ("game game", 0.5),  # one bigram, not repeated; 1 of 2 long words
        ("game game game", 1.0),  # 1/2 of bigrams + 2/3 of words is above 1
        ("Fast FAST fast-fast", 1.0),  # 2/3 + 3/4
        ("big tool and big tool", 0.75),  # bigrams 1/4, long words (tool, tool) 1/2
    ],
)
def test_repetition_literal_values(text: str, expected: float) -> None:
    assert repetition(text) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.sampled_from(["tool", "the", "maze", "a", "RRD", "file"]), max_size=20), st.integers(1, 4))
def test_repetition_matches_a_plain_count_and_stays_in_the_unit_interval(words: list[str], ngram: int) -> None:
    lowered = [word.lower() for word in words]
    again, total = 0, 0
    for start in range(len(lowered) - ngram + 1):
        total += 1
        again += any(lowered[start : start + ngram] == lowered[other : other + ngram] for other in range(start))
    long_again, long_total = 0, 0
    for index, word in enumerate(lowered):
        if len(word) >= 4:
            long_total += 1
            long_again += word in lowered[:index]
    expected = (again / total if total else 0.0) + (long_again / long_total if long_total else 0.0)
    found = repetition(" ".join(words), ngram=ngram)
    assert 0.0 <= found <= 1.0
    assert found == pytest.approx(min(1.0, expected), abs=1e-12)


@given(st.text())
def test_repetition_of_any_text_is_in_the_unit_interval(text: str) -> None:
    assert 0.0 <= repetition(text) <= 1.0
    assert -1.0 <= RepetitionReward(RepetitionConfig())([sample(text)])[0] <= 0.0


def test_repetition_is_a_penalty() -> None:
    assert RepetitionReward(RepetitionConfig())([sample("of the x of the y")]) == [pytest.approx(-0.2)]


def test_normalisation_drops_only_what_is_asked() -> None:
    text = "The  Quick, brown\tFOX!"
    assert normalised(text, case=True, punctuation=True, articles=True) == "quick brown fox"
    assert normalised(text, case=False, punctuation=False, articles=False) == "The Quick, brown FOX!"
    assert normalised("ﬁle\u00a0x", case=False, punctuation=False, articles=False) == "file x"


def test_exact_match() -> None:
    reward = ExactMatchReward(ExactMatchConfig())
    assert reward([sample("RRD file daemon.", output="rrd  file daemon"), sample("no", output="yes")]) == [1.0, 0.0]
    strict = ExactMatchReward(ExactMatchConfig(ignore_case=False, ignore_punctuation=False))
    assert strict([sample("Yes", output="yes"), sample("yes", output="yes")]) == [0.0, 1.0]


def test_rouge_literal_values() -> None:
    # 6 and 5 words, 4 in common (the, cat, on, mat) of which "the" counts twice: overlap 5; P 5/5, R 5/6.
    found = rouge_f1("the cat on the mat", reference="the cat sat on the mat")
    assert found["rouge1"] == pytest.approx(10 / 11, abs=1e-12)
    assert found["rouge2"] == pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5), abs=1e-12)
    assert found["rougeL"] == pytest.approx(10 / 11, abs=1e-12)
    assert rouge_f1("mat cat", reference="cat mat")["rougeL"] == pytest.approx(0.5, abs=1e-12)
    assert rouge_f1("parsing files", reference="parses a file")["rouge1"] == pytest.approx(0.8, abs=1e-12)  # stemmed
    assert rouge_f1("", reference="cat") == {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}


def test_rouge_reward_takes_its_variant() -> None:
    swapped = sample("mat cat", output="cat mat")
    assert RougeReward(RougeConfig(variant="rouge1"))([swapped]) == [1.0]
    assert RougeReward(RougeConfig())([swapped]) == [0.5]


@pytest.mark.parametrize("reward", [ExactMatchReward(ExactMatchConfig()), RougeReward(RougeConfig())])
def test_a_row_without_a_reference_is_named(reward: ExactMatchReward | RougeReward) -> None:
    with pytest.raises(RewardError, match="row 'r1' has an empty output"):
        reward([sample("text", output="  ")])
