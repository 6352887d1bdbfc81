"""Post-processing: each step on literal texts, and that no text makes it raise or change its mind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rlft_core.config.postprocess import PostprocessConfig
from rlft_core.postprocess import before_repetition, first_chars, first_sentence, postprocess


@pytest.mark.parametrize(
    "text, expected",
    [
        ("A maze game. It is fun.", "A maze game."),
        ("A maze game", "A maze game"),
        ("", ""),
        ("Really?! Yes.", "Really?!"),
        ('He said "no." Then he left.', 'He said "no."'),
        ("Tools (e.g. a parser) for files. More.", "Tools (e.g. a parser) for files."),
        ("Parsers, lexers, etc. for C. More.", "Parsers, lexers, etc. for C. More."),  # C. could be an initial
        ("Cats vs. dogs, i.e. pets. More.", "Cats vs. dogs, i.e. pets."),
        ("Tools (parsers, etc.) for files. More.", "Tools (parsers, etc.) for files."),
        ("By Dr. J. R. Smith et al. of Oslo! More.", "By Dr. J. R. Smith et al. of Oslo!"),
        ("Is it free? No. It is not.", "Is it free?"),
        ("No. It is not.", "No."),
        ("Fig. 3 and No. 5 of it. More.", "Fig. 3 and No. 5 of it."),
        ("Needs Python 3.11 or 3.12.1. More.", "Needs Python 3.11 or 3.12.1."),
        ("It costs 5. More.", "It costs 5."),
        ("1. Read the file. 2. Write it.", "1. Read the file."),
        ("Runs node.js on example.org now. More.", "Runs node.js on example.org now."),
        ("迷路ゲーム。もう一つ。", "迷路ゲーム。"),
        ("「本当？」と言った。次。", "「本当？」"),
        ("Wait... what? No.", "Wait..."),
    ],
)
def test_first_sentence(text: str, expected: str) -> None:
    assert first_sentence(text) == expected


@pytest.mark.parametrize(
    "text, num_words, expected",
    [
        ("a tool and a tool", 2, "a tool and"),
        ("a tool and a tool", 3, "a tool and a tool"),
        ("The maze game, the MAZE game!", 3, "The maze game,"),
        ("so so so so", 2, "so so"),
        ("game Game", 1, "game"),
        ("one - two - one - two", 2, "one - two -"),  # a dash is no word
        ("of the x of the y", 2, "of the x"),
        ("", 1, ""),
    ],
)
def test_cut_repetition(text: str, num_words: int, expected: str) -> None:
    assert before_repetition(text, num_words=num_words) == expected


@pytest.mark.parametrize(
    "text, num_chars, expected",
    [
        ("maze game", 9, "maze game"),
        ("maze game", 8, "maze"),
        ("maze game", 5, "maze"),
        ("maze game", 4, "maze"),
        ("maze game", 3, "maz"),  # no whole word fits
        ("a\tmaze  game", 7, "a\tmaze"),
        ("数据库系统", 3, "数据库"),
        ("数据库system tools", 6, "数据库"),
        ("ทดสอบ", 3, "ทดส"),
        ("กขก็ค", 3, "กข"),  # the vowel sign stays with its letter
        ("e\u0301e\u0301", 3, "e\u0301e"),  # one word, and nothing else fits
    ],
)
def test_max_chars(text: str, num_chars: int, expected: str) -> None:
    assert first_chars(text, num_chars) == expected


@pytest.mark.parametrize(
    "settings, text, expected",
    [
        ({"strip_prefixes": ["Summary:"]}, " summary:  Summary: a Game ", "a Game"),
        ({"strip_prefixes": ["The", "A"]}, "the Theory of a game", "Theory of a game"),
        ({"strip_prefixes": ["Here is", "Here is a summary:"]}, "Here is a summary: mazes", "mazes"),
        ({"strip_prefixes": ["要約"]}, "要約迷路", "迷路"),
        ({"strip_prefixes": ["x"]}, "X", ""),
        ({"first_line": True}, "\n  \n a line \nanother", "a line"),
        ({"first_line": True}, " \n ", ""),
        ({"first_sentence": True}, "One.\nTwo.", "One."),
        ({"max_words": 2}, " simple,  top-down maze", "simple,  top-down"),
        ({"max_words": 9}, "maze", "maze"),
        ({"strip_final": ".,;"}, "a game. ,;.", "a game"),
        ({"strip_final": "."}, "...", ""),
        (
            {"strip_prefixes": ["Synopsis:"], "first_line": True, "first_sentence": True, "strip_final": "."},
            "Synopsis: A maze game. Fun!\nMore",
            "A maze game",
        ),
        ({"cut_repetition": 2, "max_words": 4, "strip_final": ","}, "a b c, a b c, a b", "a b c"),
        ({"max_chars": 12, "strip_final": ","}, "mazes, games, tools", "mazes"),
        # What one step leaves, an earlier one would cut: "foo foobar" loses "bar", and then repeats itself.
        ({"cut_repetition": 1, "strip_final": "bar"}, "foo foobar", "foo"),
    ],
)
def test_steps_alone_and_together(settings: dict[str, object], text: str, expected: str) -> None:
    assert postprocess(text, PostprocessConfig.model_validate(settings)) == expected


CONFIGS = (
    st.fixed_dictionaries(
        {},
        optional={
            "strip_prefixes": st.lists(st.sampled_from(["Summary:", "a", "摘要", "."]), min_size=1, max_size=2),
            "first_line": st.booleans(),
            "first_sentence": st.booleans(),
            "cut_repetition": st.integers(1, 3),
            "max_words": st.integers(1, 6),
            "max_chars": st.integers(1, 30),
            "strip_final": st.sampled_from(["", ".", ".,; a"]),
        },
    )
    .filter(lambda found: any(found.values()))
    .map(PostprocessConfig.model_validate)
)
PIECES = st.sampled_from(["a", "A.", "e.g.", "No.", "5", "Summary:", "b", ".", " ", "\n", "。", "数据", "ก็", "\u2028"])
TEXTS = st.text(max_size=60) | st.lists(PIECES, max_size=25).map("".join)


@given(TEXTS, CONFIGS)
def test_twice_is_once_and_nothing_is_added(text: str, config: PostprocessConfig) -> None:
    found = postprocess(text, config)
    assert postprocess(found, config) == found
    assert found in text
    assert found == found.strip()
    assert len(found.split()) <= (config.max_words or len(text))
    assert len(found) <= (config.max_chars or len(text))
    assert not config.first_line or len(found.splitlines()) <= 1


def test_a_lone_surrogate_and_a_long_text_are_texts() -> None:
    config = PostprocessConfig(first_sentence=True, cut_repetition=2, max_chars=20)
    assert postprocess("\ud800 x\x00y. z", config) == "\ud800 x\x00y."
    assert postprocess("word " * 20_000, config) == "word word"


def test_a_configuration_that_does_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="postprocess does nothing: switch on at least one step"):
        PostprocessConfig()
