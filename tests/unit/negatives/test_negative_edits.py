"""Bad outputs from a text alone: words, characters of other scripts, literal values, and what never happens."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlft_core.negatives.draw import draw_where, stream, weighted_order
from rlft_core.negatives.edits import doubled, dropped, repetitive, shuffled, swapped, truncated, typos
from rlft_core.negatives.units import characters, framed, is_unspaced, overlap, plain, units_of

FAMILY, FLAG, THUMB = "👩\u200d👩\u200d👧", "🇩🇪", "👍🏽"
E_ACUTE = "e\u0301"

TEXTS = st.text(st.sampled_from(f"ab cdé1.,-\n\u0301ุกดี播放文صور{FAMILY}{FLAG}{THUMB}"), max_size=30)
SEEDS = st.integers(0, 2**32)


def draws(number: int = 60) -> list[np.random.Generator]:
    return [stream("test", index) for index in range(number)]


# Units


def test_words_keep_what_stands_between_them() -> None:
    parts = units_of("  one  two,\nthree ")
    assert parts.units == ("one", "two,", "three")
    assert parts.gaps == ("  ", "\n")
    assert parts.part(1, 3) == "two,\nthree"
    assert parts.part(2, 2) == ""
    assert parts.refilled(("a", "b", "c")) == "a  b\nc"


@pytest.mark.parametrize(
    "text, units",
    [
        ("播放文件", ("播", "放", "文", "件")),
        ("播放 MP3 文件", ("播", "放", "M", "P", "3", "文", "件")),
        ("ดูรูป", ("ดู", "รู", "ป")),
        ("the MP3 文件 player", ("the", "MP3", "文件", "player")),
        ("عارض صور", ("عارض", "صور")),
    ],
)
def test_scripts_without_spaces_are_cut_into_characters(text: str, units: tuple[str, ...]) -> None:
    assert units_of(text).units == units


def test_few_words_are_characters_where_asked() -> None:
    assert units_of("a bc", least_words=3).units == ("a", "b", "c")
    assert units_of("a bc", least_words=3).gaps == (" ", "")
    assert units_of("a bc d", least_words=3).units == ("a", "bc", "d")


def test_what_people_see_as_one_character_stays_one() -> None:
    assert characters(f"{FAMILY}{FLAG}{FLAG}{THUMB}{E_ACUTE}x") == [FAMILY, FLAG, FLAG, THUMB, E_ACUTE, "x"]


@given(TEXTS)
def test_no_character_is_lost(text: str) -> None:
    parts = units_of(text)
    assert parts.part(0, len(parts)) == text.strip()
    assert "".join(characters(text)) == text


def test_which_scripts_have_no_spaces() -> None:
    assert is_unspaced("播放MP3文件")
    assert is_unspaced("โปรแกรม")
    assert not is_unspaced("plays MP3 文件")
    assert not is_unspaced("한국어 텍스트")
    assert not is_unspaced("")


def test_texts_are_compared_without_regard_to_white_space() -> None:
    assert plain(f" a\n b\t{E_ACUTE} ") == "a b \u00e9"


def test_overlap_is_the_f1_of_words() -> None:
    assert overlap("A tool, small", "tool for small a files") == 0.75  # 3 common: 2 x 3 / (3 + 5)
    assert overlap("播放", "放播文文") == pytest.approx(2 * 2 / 6, abs=1e-12)
    assert overlap("a", "b") == overlap("", "") == overlap("-", "-") == 0.0


def test_a_negative_gets_the_outer_white_space_of_its_reference() -> None:
    assert framed(" bad ", like=" good\n") == " bad\n"
    assert framed("bad", like=" good\n", ended=False) == " bad"


# Chance


def test_a_purpose_has_its_own_stream() -> None:
    assert stream(1, "a", 0).random() == stream(1, "a", 0).random()
    numbers = {stream(*purpose).random() for purpose in [(1, "a", 0), (1, "a", 1), (2, "a", 0), (1, "a0"), (1, "b", 0)]}
    assert len(numbers) == 5
    assert round(stream(0, "row", "kind").random(), 12) == 0.378494687276  # the same on every machine


def test_a_rare_item_is_found_all_the_same() -> None:
    items = list(range(10_000))
    assert draw_where(stream("a"), items, lambda item: item == 4711) == 4711
    assert draw_where(stream("a"), items, lambda item: item < 0) is None
    assert draw_where(stream("a"), [], lambda item: True) is None


def test_the_first_of_an_order_is_drawn_by_weight() -> None:
    first = Counter(weighted_order(stream("order", index), [1.0, 2.0, 5.0])[0] for index in range(4000))
    for index, share in enumerate((1 / 8, 2 / 8, 5 / 8)):
        assert abs(first[index] - 4000 * share) < 5 * (4000 * share * (1 - share)) ** 0.5
    assert sorted(weighted_order(stream("order"), [1.0, 1e-9, 1e9])) == [0, 1, 2]


# Shuffled


def test_words_are_shuffled_and_white_space_stays() -> None:
    made = {shuffled("one two\nthree", rng) for rng in draws()}
    assert made == {
        "one three\ntwo",
        "two one\nthree",
        "two three\none",
        "three one\ntwo",
        "three two\none",
    }


def test_characters_of_few_words_are_shuffled() -> None:
    assert {shuffled("ab c", rng) for rng in draws()} == {"ac b", "ba c", "bc a", "ca b", "cb a"}
    assert {shuffled(FAMILY + FLAG, rng) for rng in draws()} == {FLAG + FAMILY}


@pytest.mark.parametrize("text", ["", "x", "no no no", "aaa"])
def test_what_has_one_order_is_not_shuffled(text: str) -> None:
    assert shuffled(text, stream("a")) is None


# Repetitive


def test_repetition_has_several_forms() -> None:
    made = {repetitive("a tool for files", rng, min_times=2, max_times=2) for rng in draws(200)}
    assert "a tool tool for files" in made  # a phrase
    assert "a tool for tool for files" in made
    assert "a tool for tool for" in made  # nothing follows it
    assert "a tool for files for files" in made  # the end
    assert {"a tool for files a tool for files", "a tool for files\na tool for files"} <= made
    assert {repetitive("文", rng, min_times=2, max_times=2) for rng in draws()} == {"文 文", "文\n文"}


def test_a_part_is_said_as_often_as_asked() -> None:
    times = {repetitive("x", rng, min_times=2, max_times=4).count("x") for rng in draws()}  # type: ignore[union-attr]
    assert times == {2, 3, 4}


def test_punctuation_alone_is_not_repeated() -> None:
    made = {repetitive("a - b", rng, min_times=2, max_times=2) for rng in draws(200)}
    assert made.isdisjoint({"a - - b", "a - -"})
    assert repetitive("---", stream("a"), min_times=2, max_times=2) is None


# Truncated


def test_truncation_keeps_a_share_of_the_words() -> None:
    text = "1 2 3 4 5 6 7 8 9 10"
    lengths = {len(truncated(text, rng, min_kept=0.3, max_kept=0.5).split()) for rng in draws()}  # type: ignore[union-attr]
    assert lengths == {3, 4, 5}


@pytest.mark.parametrize(
    "text, made",
    [
        ("two words", {"two"}),
        ("word", {None}),
        ("word !", {None}),
        ("a word !", {"a"}),
        ("播放文", {"播", "播放"}),
        ("播", {None}),
        ("", {None}),
    ],
)
def test_truncation_loses_at_least_a_word(text: str, made: set[str | None]) -> None:
    assert {truncated(text, rng, min_kept=0.2, max_kept=0.8) for rng in draws()} == made


# Typos


def test_every_kind_of_typing_mistake_is_made() -> None:
    made = {typos("abc", rng, rate=1.0) for rng in draws(300)}
    assert {"bac", "acb"} <= made
    assert {"bc", "ac", "ab"} <= made
    assert {"aabc", "abbc", "abcc"} <= made
    assert {"sbc", "avc", "abx"} <= made
    assert "abc" not in made


def test_a_share_of_the_words_is_mistyped() -> None:
    text = "alpha beta gamma delta omega alpha beta gamma delta omega 123 - of"
    for rng in draws(20):
        words = typos(text, rng, rate=0.3).split()  # type: ignore[union-attr]
        assert sum(word != before for word, before in zip(words, text.split(), strict=True)) == 3
        assert words[-3:] == ["123", "-", "of"]  # short words only where there are no others


def test_a_typo_tears_no_character_apart() -> None:
    for rng in draws(100):
        made = typos(f"b{E_ACUTE}c", rng, rate=1.0)
        assert made is not None
        assert "\u0301" not in [piece for piece in characters(made) if len(piece) == 1]
        assert made != f"b{E_ACUTE}c"
    assert typos("123 -", stream("a"), rate=1.0) is None


# A word too few or too many


def test_words_are_dropped_doubled_and_swapped() -> None:
    text = "fast  tool - for files"
    gone = {dropped(text, rng, max_words=1) for rng in draws()}
    assert gone == {"tool - for files", "fast  - for files", "fast  tool - files", "fast  tool - for"}
    twice = {doubled(text, rng, max_words=1) for rng in draws()}
    assert "fast fast  tool - for files" in twice
    assert "fast  tool - for files files" in twice
    assert not any("- -" in str(made) for made in twice)
    assert {swapped("a b c", rng) for rng in draws()} == {"b a c", "a c b"}
    fewer = {len(str(dropped("one two three four", rng, max_words=2)).split()) for rng in draws()}
    assert fewer == {2, 3}


def test_an_only_word_is_neither_dropped_nor_swapped() -> None:
    assert dropped("tool", stream("a"), max_words=3) is None
    assert dropped("tool -", stream("a"), max_words=3) is None
    assert swapped("tool", stream("a")) is None
    assert swapped("tool tool", stream("a")) is None
    assert doubled("tool", stream("a"), max_words=3) == "tool tool"
    assert doubled("-", stream("a"), max_words=3) is None
    assert dropped("播放文件", stream("a"), max_words=1) in {"放文件", "播文件", "播放件", "播放文"}


# Whatever the text


@given(TEXTS, SEEDS)
def test_an_edit_is_none_or_differs_and_is_not_blank(text: str, seed: int) -> None:
    for edit in (
        shuffled(text, stream(seed)),
        repetitive(text, stream(seed), min_times=2, max_times=5),
        truncated(text, stream(seed), min_kept=0.2, max_kept=0.8),
        typos(text, stream(seed), rate=0.3),
        dropped(text, stream(seed), max_words=2),
        doubled(text, stream(seed), max_words=2),
        swapped(text, stream(seed)),
    ):
        assert edit is None or (edit.strip() and edit != text.strip())


@given(TEXTS, SEEDS)
def test_a_truncated_text_is_the_beginning_of_it(text: str, seed: int) -> None:
    made = truncated(text, stream(seed), min_kept=0.2, max_kept=0.8)
    assert made is None or (text.strip().startswith(made) and len(made) < len(text.strip()))


@given(TEXTS, SEEDS)
def test_shuffling_loses_nothing(text: str, seed: int) -> None:
    made = shuffled(text, stream(seed))
    assert made is None or Counter(made) == Counter(text.strip())
