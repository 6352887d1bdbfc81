"""Each metric on literal texts, and the copy rate against a plain loop."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlft_core.evaluation import text
from rlft_core.rewards.protocol import Sample
from rlft_core.types import Row

WORDS = st.lists(st.sampled_from(["the", "maze", "game", "is"]), max_size=12)


def sample(output: str, *, reference: str = "ref", given: str = "in", tokens: int = 2, finish: str = "stop") -> Sample:
    return Sample(Row("r", given, reference), output, np.zeros(tokens, dtype=np.int32), finish)


class Lengths:
    """An embedder that finds texts as similar as their lengths."""

    def similarity(self, texts: Sequence[str], others: Sequence[str]) -> list[float]:
        return [len(one) / len(other) for one, other in zip(texts, others, strict=True)]


def test_literal_values_of_every_metric() -> None:
    samples = [
        sample("the cat on the mat", reference="the cat sat on the mat", given="I saw: the cat on the Mat.", tokens=6),
        sample(" Game game ", reference="maze", given="a Game", tokens=3, finish="length"),
    ]
    found = text.text_metrics(samples, embedder=Lengths())
    expected = {
        "rouge1": [10 / 11, 0.0],
        "rouge2": [2 * 3 / (5 + 4), 0.0],
        "rougeL": [10 / 11, 0.0],
        "similarity_to_reference": [18 / 22, 9 / 4],
        "num_words": [5.0, 2.0],
        "num_tokens": [6.0, 3.0],
        "repetition_share": [0.0, 0.5],
        "ended_by_eos": [1.0, 0.0],
        "copy_rate": [1.0, 0.0],
        "la_rouge1": [10 / 11 * math.exp(1 - 6 / 5), 0.0],
        "la_rouge2": [2 * 3 / (5 + 4) * math.exp(1 - 6 / 5), 0.0],
        "la_rougeL": [10 / 11 * math.exp(1 - 6 / 5), 0.0],
        "unsupported_numbers": [0.0, 0.0],
        "unsupported_names": [0.0, 0.0],
    }
    assert list(found) == list(expected)
    for metric, values in expected.items():
        assert found[metric] == pytest.approx(values, abs=1e-12), metric


def test_without_an_embedder_there_is_no_similarity() -> None:
    assert "similarity_to_reference" not in text.text_metrics([sample("a")])


@pytest.mark.parametrize(
    "output, given, expected",
    [
        ("a simple maze game", "this is a simple maze with walls", 0.5),
        ("maze game", "the maze game", 1.0),  # two words are one n-gram
        ("maze game", "the game maze", 0.0),
        ("", "the maze", 0.0),
        ("...", "the maze ...", 0.0),
        ("a b c", "", 0.0),
    ],
)
def test_copy_rate_literal_values(output: str, given: str, expected: float) -> None:
    assert text.copy_rate([sample(output, given=given)]) == [expected]


@given(WORDS, WORDS, st.integers(1, 4))
def test_copy_rate_matches_a_plain_count(output: list[str], source: list[str], ngram: int) -> None:
    size = min(ngram, len(output))
    starts = range(len(output) - size + 1) if size else range(0)
    hits = sum(any(source[k : k + size] == output[s : s + size] for k in range(len(source))) for s in starts)
    expected = hits / len(starts) if len(starts) else 0.0
    found = text.copy_rate([sample(" ".join(output), given=" ".join(source))], ngram=ngram)
    assert found == [pytest.approx(expected, abs=1e-12)]


@pytest.mark.parametrize(
    "output, reference, expected",
    [
        ("a b", "a b", 0.8),
        ("a b c d", "a b", 0.8 * math.exp(-1)),
        ("a", "a b", 0.8 * math.exp(-1)),  # too short costs as much as too long
        ("a b c", "a b", 0.8 * math.exp(-0.5)),
        (" ", "a b", 0.0),
        ("a", " ", 0.0),
    ],
)
def test_length_adjustment_literal_values(output: str, reference: str, expected: float) -> None:
    found = text.length_adjusted([sample(output, reference=reference)], [0.8])
    assert found == [pytest.approx(expected, abs=1e-12)]
