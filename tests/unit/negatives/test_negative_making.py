"""Which kinds a row gets, what is counted, and the promises: seeded, independent of other rows, never the reference."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlft_core.config.negatives import (
    CopyConfig,
    HallucinatedConfig,
    IrrelevantConfig,
    NegativeConfig,
    RepetitiveConfig,
    RunOnConfig,
    ShuffledConfig,
    TruncatedConfig,
    TyposConfig,
)
from rlft_core.negatives import NO_NEGATIVES, Contrast, Negative, make_corpus, make_negatives, one_of_each
from rlft_core.types import Row

KINDS: tuple[NegativeConfig, ...] = (
    IrrelevantConfig(),
    ShuffledConfig(),
    RepetitiveConfig(),
    CopyConfig(),
    TruncatedConfig(),
    RunOnConfig(),
    HallucinatedConfig(),
    TyposConfig(),
)
ROWS = [
    Row(f"row{k}", f"The {word} reads files of version {k} and shows them.", f"{word} for files of version {k}")
    for k, word in enumerate(["viewer", "player", "editor", "printer", "filter", "server", "sorter", "painter"])
]
TEXTS = st.text(st.sampled_from("ab c1.\n\u0301ุก播放صور👍🏽"), max_size=12)
SETTLED = [
    Row("x1", "one input", "a first output"),
    Row("x2", "two inputs", "another text"),
    Row("x3", "播放文件", "播放"),
]


def kinds_of(contrast: Contrast) -> list[str]:
    return [negative.kind for negative in contrast.negatives]


def test_one_of_each_kind_in_their_order() -> None:
    made = one_of_each(ROWS, make_corpus(ROWS, KINDS), KINDS, seed=0)
    assert [contrast.row for contrast in made.contrasts] == ROWS
    assert all(kinds_of(contrast) == [kind.label for kind in KINDS] for contrast in made.contrasts)
    assert made.counts == {kind.label: 8 for kind in KINDS}
    assert made.skipped == {}


def test_what_is_made_stays_what_it_is() -> None:
    kinds = (ShuffledConfig(), TruncatedConfig(), TyposConfig())
    made = one_of_each(ROWS[:1], make_corpus(ROWS, kinds), kinds, seed=7)
    assert made.contrasts[0].negatives == (
        Negative("shuffled", "viewer for of files 0 version"),
        Negative("truncated", "viewer for files"),
        Negative("typos", "viewer or files of version 0"),
    )


@pytest.mark.parametrize("per_row", [1, 4, 8])
def test_no_kind_comes_twice_while_another_is_left(per_row: int) -> None:
    made = make_negatives(ROWS, make_corpus(ROWS, KINDS), KINDS, per_row=per_row, seed=0)
    assert all(len(set(kinds_of(contrast))) == per_row for contrast in made.contrasts)
    assert sum(made.counts.values()) == per_row * len(ROWS)


def test_kinds_come_again_when_all_had_their_turn() -> None:
    kinds = (ShuffledConfig(), TyposConfig(), RunOnConfig())
    made = make_negatives(ROWS, make_corpus(ROWS, kinds), kinds, per_row=7, seed=0)
    for contrast in made.contrasts:
        labels = kinds_of(contrast)
        assert set(labels[:3]) == set(labels[3:6]) == {"shuffled", "typos", "run_on"}
        assert len({negative.text for negative in contrast.negatives}) == 7


def test_kinds_are_drawn_by_share() -> None:
    kinds = (ShuffledConfig(share=1), TyposConfig(share=3), RepetitiveConfig(share=6))
    rows = [Row(str(k), "in", "an output of five words") for k in range(3000)]
    made = make_negatives(rows, make_corpus(rows, kinds), kinds, per_row=1, seed=0)
    for label, share in {"shuffled": 0.1, "typos": 0.3, "repetitive": 0.6}.items():
        assert abs(made.counts[label] - 3000 * share) < 5 * (3000 * share * (1 - share)) ** 0.5
    # Of two, the rare one is drawn first or second: P = .1 + .3 x .1/.7 + .6 x .1/.4.
    pairs = make_negatives(rows, make_corpus(rows, kinds), kinds, per_row=2, seed=0)
    expected = 0.1 + 0.3 / 7 + 0.6 / 4
    assert abs(pairs.counts["shuffled"] - 3000 * expected) < 5 * (3000 * expected * (1 - expected)) ** 0.5


def test_another_kind_takes_the_place_of_one_that_cannot() -> None:
    kinds = (TruncatedConfig(share=1e6), TyposConfig())
    rows = [Row("one", "in", "word"), Row("two", "in", "two words")]
    made = make_negatives(rows, make_corpus(rows, kinds), kinds, per_row=1, seed=0)
    assert [kinds_of(contrast) for contrast in made.contrasts] == [["typos"], ["truncated"]]
    assert made.counts == {"truncated": 1, "typos": 1}
    assert made.skipped == {"truncated": 1}


def test_a_row_has_fewer_negatives_when_there_are_no_more() -> None:
    rows = [Row("a", "in", "no"), Row("b", "in", "-"), Row("c", "in", " ")]
    made = make_negatives(rows, make_corpus(rows, [ShuffledConfig()]), [ShuffledConfig()], per_row=3, seed=0)
    assert made.contrasts == (Contrast(rows[0], (Negative("shuffled", "on"),)),)
    # "no" has one other order, "-" none, and a blank output is no reference.
    assert made.skipped == {"shuffled": 2, NO_NEGATIVES: 2}


def test_kinds_of_one_sort_are_told_apart_by_name() -> None:
    kinds = (TyposConfig(name="few", rate=0.1), TyposConfig(name="many", rate=1.0))
    made = one_of_each(ROWS, make_corpus(ROWS, kinds), kinds, seed=0)
    assert made.counts == {"few": 8, "many": 8}


def test_a_seed_gives_the_same_and_another_seed_something_else() -> None:
    corpus = make_corpus(ROWS, KINDS)
    first, again, other = (make_negatives(ROWS, corpus, KINDS, per_row=4, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.contrasts != other.contrasts


@settings(max_examples=30, deadline=None)
@given(st.permutations(ROWS), st.integers(1, 8), st.integers(0, 9))
def test_a_rows_negatives_do_not_depend_on_the_others(rows: list[Row], number: int, seed: int) -> None:
    known = make_negatives(ROWS, make_corpus(ROWS, KINDS), KINDS, per_row=3, seed=seed)
    by_id = {contrast.row.id: contrast for contrast in known.contrasts}
    some = make_negatives(rows[:number], make_corpus(rows, KINDS), KINDS, per_row=3, seed=seed)
    assert list(some.contrasts) == [by_id[row.id] for row in rows[:number]]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=4), st.integers(0, 2**32), st.integers(1, 20))
def test_a_negative_is_never_blank_or_the_reference_or_another(
    texts: list[tuple[str, str]], seed: int, per_row: int
) -> None:
    rows = [*SETTLED, *(Row(str(index), *pair) for index, pair in enumerate(texts))]
    corpus = make_corpus(rows, KINDS)
    for made in (
        make_negatives(rows, corpus, KINDS, per_row=per_row, seed=seed),
        one_of_each(rows, corpus, KINDS, seed=seed),
    ):
        for contrast in made.contrasts:
            found = [" ".join(negative.text.split()) for negative in contrast.negatives]
            assert "" not in found
            assert " ".join(contrast.row.output.split()) not in found
            assert len(set(found)) == len(found) > 0
        counted = Counter(kind for contrast in made.contrasts for kind in kinds_of(contrast))
        assert counted == Counter(made.counts)
        assert len(made.contrasts) + made.skipped.get(NO_NEGATIVES, 0) == len(rows)


def test_no_rows_and_no_kinds_make_nothing() -> None:
    corpus = make_corpus(ROWS, KINDS)
    assert make_negatives([], corpus, KINDS, per_row=2, seed=0).contrasts == ()
    made = make_negatives(ROWS, corpus, [], per_row=2, seed=0)
    assert (made.contrasts, made.counts, made.skipped) == ((), {}, {NO_NEGATIVES: 8})


def test_a_kind_without_a_share_is_measured_but_never_trained_on() -> None:
    kinds = (ShuffledConfig(), TyposConfig(share=0.0), TruncatedConfig())
    corpus = make_corpus(ROWS, kinds)
    assert make_negatives(ROWS, corpus, kinds, per_row=3, seed=0).counts["typos"] == 0
    assert one_of_each(ROWS, corpus, kinds, seed=0).counts["typos"] == len(ROWS)
