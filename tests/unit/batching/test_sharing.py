"""Which texts share their beginning, and that every one is still there."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rlft_core.batching.sharing import Pair, share_beginnings

text = st.lists(st.integers(1, 3), min_size=1, max_size=8)


def test_by_hand() -> None:
    pairs: list[Pair] = [([1, 2, 3, 4], [9]), ([1, 2, 3, 5, 6], [8, 7]), ([1, 4], [9]), ([1, 4], [8]), ([2], [5])]
    found = share_beginnings(pairs)
    assert [(s.prompt, s.completions, s.given, s.first_token) for s in found] == [
        ([1, 2, 3], [[4, 9], [5, 6, 8, 7]], [1, 2], 0),
        ([1, 4], [[9], [8]], [0, 0], 3),
        ([2], [[5]], [0], 5),
    ]


def test_half_of_a_prompt_is_not_enough() -> None:
    assert len(share_beginnings([([1, 2, 3, 4], [9]), ([1, 2, 5, 6], [9])])) == 2
    assert len(share_beginnings([([1, 2, 3, 4], [9]), ([1, 2, 3, 6], [9])])) == 1
    # A third row may not take from the first two what they share.
    assert len(share_beginnings([([1, 2, 3, 4], [9]), ([1, 2, 3, 6], [9]), ([1, 2, 7, 8], [9])])) == 2


def test_nothing() -> None:
    assert share_beginnings([]) == []


@settings(max_examples=200, deadline=None)
@given(pairs=st.lists(st.tuples(text, text), max_size=8))
def test_every_text_is_there_once_in_its_order(pairs: list[Pair]) -> None:
    found = share_beginnings(pairs)
    texts = [
        ([*s.prompt, *c], len(s.prompt) + read) for s in found for c, read in zip(s.completions, s.given, strict=True)
    ]
    assert texts == [([*prompt, *targets], len(prompt)) for prompt, targets in pairs]
    starts = [s.first_token for s in found]
    assert starts == [sum(s.num_tokens for s in found[:k]) for k in range(len(found))]
