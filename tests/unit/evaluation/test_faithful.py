"""Numbers and names that the input does not have, on literal texts and on texts of other scripts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlft_core.evaluation.faithful import names_of, unsupported_names, unsupported_numbers
from rlft_core.rewards.protocol import Sample
from rlft_core.types import Row


def sample(output: str, given: str) -> Sample:
    return Sample(Row("r", given, "ref"), output, np.zeros(1), "stop")


@pytest.mark.parametrize(
    "output, given, expected",
    [
        ("a maze game", "12 mazes", 0.0),
        ("12 mazes", "a maze with 12 walls", 0.0),
        ("13 mazes", "a maze with 12 walls", 1.0),
        ("12 mazes, 3 walls", "12 mazes", 0.5),
        ("Python 3.11", "needs Python 3.11.", 0.0),
        ("Python 3.11", "needs Python 3.12", 1.0),
        ("Python 3", "needs Python 3.11", 1.0),  # a whole number, not its beginning
        ("1000 files", "1,000 files", 0.0),
        ("1,5 bars", "1.5 bars", 1.0),
        ("a 64-bit tool", "for 64bit machines", 0.0),
        ("x86 and v2.0 and 3rd", "nothing", 0.0),  # names, not numbers
        ("3.11rc1", "nothing", 0.0),
        ("50%, $7, (8)", "50 7 8", 0.0),
        ("12 12 13", "13", 2 / 3),
        ("5", "", 1.0),
        ("", "5", 0.0),
        ("第3版", "第3版", 0.0),
        ("٣ ملفات", "٣ ملفات", 0.0),
    ],
)
def test_unsupported_numbers(output: str, given: str, expected: float) -> None:
    assert unsupported_numbers([sample(output, given)]) == [pytest.approx(expected, abs=1e-12)]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Maze game", []),
        ("Game for Unix", ["Unix"]),
        ("LaTeX tools", ["LaTeX"]),
        ("DNA and an iPhone", ["DNA", "iPhone"]),
        ("Plays mp3 at 64 bits", ["mp3"]),
        ('It ends. Then it begins: Now! "Yes"', []),
        ("A list:\n- One\n* Two\n1. Three", []),
        ("So (Debian) I use Java and R", ["Debian", "Java", "R"]),
        ("a very long beginning without any capital Perl", ["Perl"]),
        ("Debian's Python-based tool", ["Python"]),
        ("迷路 ゲーム", []),
        ("игра для Линукс", ["Линукс"]),
    ],
)
def test_what_looks_like_a_name(text: str, expected: list[str]) -> None:
    assert names_of(text) == expected


@pytest.mark.parametrize(
    "output, given, expected",
    [
        ("a maze game", "anything", 0.0),
        ("tool for DNA", "sequences dna", 0.0),
        ("tool for DNA and RNA", "sequences dna", 0.5),
        ("many APIs", "an API", 0.0),
        ("an API", "many APIs.", 0.0),
        ("tool for RRD files", "an RRDtool file", 1.0),  # a whole word
        ("runs on Windows", "runs on Linux", 1.0),
        ("", "x", 0.0),
    ],
)
def test_unsupported_names(output: str, given: str, expected: float) -> None:
    assert unsupported_names([sample(output, given)]) == [expected]


@given(st.text(), st.text())
def test_any_texts_have_shares_and_a_copy_has_none(output: str, source: str) -> None:
    for metric in (unsupported_names, unsupported_numbers):
        assert 0.0 <= metric([sample(output, source)])[0] <= 1.0
        assert metric([sample(output, output)]) == [0.0]
