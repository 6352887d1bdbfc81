"""The alignment against a plain table in Python, its properties, and what counts as touched by an edit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlft_core.edits import align, changed_tokens, kept_share

tokens = st.lists(st.integers(0, 4), max_size=12)
words = st.lists(st.text(alphabet="abĠé🙂日", min_size=1, max_size=3), max_size=8)


def table_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Wagner and Fischer's table, written out."""
    table = {(i, 0): i for i in range(len(a) + 1)} | {(0, j): j for j in range(len(b) + 1)}
    for i, j in itertools.product(range(1, len(a) + 1), range(1, len(b) + 1)):
        change = table[i - 1, j - 1] + (a[i - 1] != b[j - 1])
        table[i, j] = min(change, table[i - 1, j] + 1, table[i, j - 1] + 1)
    return table[len(a), len(b)]


@given(tokens, tokens)
@settings(max_examples=300, deadline=None)
def test_the_alignment_is_as_short_as_any_and_rebuilds_both_sides(a: list[int], b: list[int]) -> None:
    found = align(a, b)
    assert found.distance == table_distance(a, b)
    assert found.original() == tuple(a)
    assert found.edited() == tuple(b)
    for step in found.steps:
        assert (step.kind == "equal") == (step.old == step.new)
        assert step.kind != "substitute" or len(step.old) == len(step.new) > 0
        assert (step.kind == "insert") == (not step.old)
        assert (step.kind == "delete") == (not step.new)


@given(tokens, tokens)
@settings(max_examples=300, deadline=None)
def test_the_alignment_is_symmetric(a: list[int], b: list[int]) -> None:
    assert align(b, a) == align(a, b).mirrored()


@given(words, words)
@settings(max_examples=300, deadline=None)
def test_marks_are_symmetric_and_none_where_texts_are_equal(a: list[str], b: list[str]) -> None:
    old, new = changed_tokens(a, b)
    assert (len(old), len(new)) == (len(a), len(b))
    swapped = changed_tokens(b, a)
    assert np.array_equal(old, swapped[1])
    assert np.array_equal(new, swapped[0])
    assert not changed_tokens(a, a)[0].any()
    assert 0.0 <= kept_share(a, b) <= 1.0


def test_known_alignments() -> None:
    kinds = align("kitten", "sitting").kinds()
    assert kinds[0] == ("substitute", "equal", "equal", "equal", "substitute", "equal")
    assert kinds[1] == ("substitute", "equal", "equal", "equal", "substitute", "equal", "insert")
    assert align("kitten", "sitting").distance == 3
    assert align([], []).steps == ()
    assert align([], [1]).kinds() == ((), ("insert",))
    assert align([1], []).kinds() == (("delete",), ())
    assert kept_share([], []) == 1.0
    assert kept_share("abcd", "abxd") == pytest.approx(6 / 8)


@pytest.mark.parametrize(
    "original, edited, touched",
    [
        # one word for another
        (["a", "Ġbad", "Ġtool"], ["a", "Ġgood", "Ġtool"], ([1], [1])),
        # the first word goes, and its neighbour loses its space: that one was not edited
        (["A", "Ġnew", "Ġtool"], ["new", "Ġtool"], ([0], [])),
        # the same word cut into other pieces
        (["un", "happy", "Ġend"], ["unhap", "py", "Ġend"], ([], [])),
        # ... beside a real change, before it and behind it
        (["un", "happy", "Ġend"], ["unhap", "py", "Ġfinish"], ([2], [2])),
        (["Ġstart", "un", "happy"], ["Ġbegin", "unhap", "py"], ([0], [0])),
        # a letter inside a word: all pieces of the word on both sides
        (["rec", "ie", "ve"], ["receive"], ([0, 1, 2], [0])),
        # words said twice, left out, swapped
        (["a", "Ġtool", "Ġtool"], ["a", "Ġtool"], ([2], [])),
        (["a", "Ġtool"], ["a", "Ġsmall", "Ġtool"], ([], [1])),
        ([], ["a"], ([], [0])),
        (["日", "本", "Ġ🙂"], ["日", "Ġ🙂"], ([1], [])),
    ],
)
def test_what_an_edit_touches(original: list[str], edited: list[str], touched: tuple[list[int], list[int]]) -> None:
    old, new = changed_tokens(original, edited)
    assert (np.flatnonzero(old).tolist(), np.flatnonzero(new).tolist()) == touched


def test_long_texts_need_memory_of_their_length_only() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 50, size=(2, 30_000)).tolist()
    found = align(a, b)
    assert found.original() == tuple(a)
    assert found.edited() == tuple(b)
