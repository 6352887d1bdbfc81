"""A judge behind a service, without the service: what is written to it, and what its replies say."""

from __future__ import annotations

import math

import pytest

from rlft_core.errors import JudgeError
from rlft_core.judging.chat import Messages, label_probabilities
from rlft_core.judging.template import parse_template

TEMPLATE = parse_template(
    "t", {"user": "{context}@{response_a}@{response_b}@", "labels": [" A", " B"], "system": "Judge."}
)


@pytest.mark.parametrize(
    ("text", "alternatives", "expected"),
    [
        ("A", {"A": math.log(0.5), " a": math.log(0.25), "B": math.log(0.125), "C": math.log(0.1)}, [0.75, 0.125]),
        ("**B**", {"**": math.log(0.998), "A": math.log(0.001)}, [0.0, 1.0]),  # it begins otherwise: its text says what
        ("B", {"B": math.log(0.6), "A": math.log(0.4)}, [0.4, 0.6]),
        ("**B**", None, [0.0, 1.0]),
        ("a.", None, [1.0, 0.0]),
        ("B because it is shorter than A", None, [0.0, 1.0]),
        ("A", {"Well": 0.0}, [1.0, 0.0]),  # the first token names none, the text does
    ],
)
def test_a_reply_is_read(text: str, alternatives: dict[str, float] | None, expected: list[float]) -> None:
    pairs = None if alternatives is None else list(alternatives.items())
    assert label_probabilities(text, pairs, ("A", "B")) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("text", ["", "Neither of them", "AB", "I prefer A"])
def test_a_reply_that_names_no_label_is_an_error(text: str) -> None:
    with pytest.raises(JudgeError, match="reply with one of A, B, and said"):
        label_probabilities(text, None, ("A", "B"))


def test_prompts_are_messages_that_ask_for_a_label() -> None:
    asked = Messages().prompt(TEMPLATE, "the {response_b}", "one", "two", principle="")
    assert asked == (
        {"role": "system", "content": "Judge."},
        {"role": "user", "content": "the {response_b}@one@two@\n\nReply with one of A, B and nothing else."},
    )
    same = parse_template("same", {"user": "{context}{response_a}{response_b}", "labels": ["A", " a"]})
    with pytest.raises(JudgeError, match=r"'same': its labels .* are the same text to a service"):
        Messages().labels(same)
