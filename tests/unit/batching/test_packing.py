"""Packing moves integers around and loses none: checked against loops, and against the model it is made for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from rlft_core.batching.packing import MicroBatch, Sequences, attention_allowed, number_tokens, pack, pad, stack
from rlft_core.models.attention import to_device
from rlft_core.models.loading import load_lm
from rlft_core.models.policy import Policy

tokens = st.integers(1, 50)
group = st.tuples(
    st.lists(tokens, min_size=1, max_size=9), st.lists(st.lists(tokens, min_size=1, max_size=7), min_size=1, max_size=5)
)
groups_of_a_step = st.lists(group, min_size=1, max_size=6)


def flat(groups: list[tuple[list[int], list[list[int]]]]) -> list[tuple[list[int], list[int], int]]:
    """Every completion token of the step in order: (its prompt, its completion, its place in the completion)."""
    return [(prompt, c, place) for prompt, completions in groups for c in completions for place in range(len(c))]


@given(
    segments=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12),
    padding=st.integers(0, 3),
)
def test_attention_is_the_definition(segments: list[tuple[int, int]], padding: int) -> None:
    """A position sees itself and what comes earlier in its group: the prompt (branch 0) and its own branch."""
    group_of = [g for g, _ in segments] + [-1] * padding
    branch_of = [b for _, b in segments] + [0] * padding
    found = attention_allowed(np.array(group_of), np.array(branch_of))
    for i in range(len(group_of)):
        for j in range(len(group_of)):
            if group_of[i] == -1:
                expected = i == j
            elif j > i or group_of[j] != group_of[i]:
                expected = False
            else:
                expected = branch_of[j] == 0 or branch_of[j] == branch_of[i]
            assert found[i, j] == expected, (i, j)


def visible_text(micro: MicroBatch, row: int, col: int) -> tuple[list[int], list[int]]:
    """Ids and positions of what the state at [row, col] has seen, in order of position."""
    if micro.group is None or micro.branch is None:
        seen = np.arange(col + 1)
    else:
        seen = np.flatnonzero(attention_allowed(micro.group[row], micro.branch[row])[col])
    order = seen[np.argsort(micro.position_ids[row, seen])]
    return micro.input_ids[row, order].tolist(), micro.position_ids[row, order].tolist()


@settings(max_examples=60, deadline=None)
@given(groups=groups_of_a_step, budget=st.integers(1, 60), multiple=st.sampled_from([1, 8]), packing=st.booleans())
def test_every_token_is_predicted_once_from_its_own_text(
    groups: list[tuple[list[int], list[list[int]]]], budget: int, multiple: int, packing: bool
) -> None:
    numbered = number_tokens(groups)
    make = pack if packing else pad
    micros = make(numbered, max_tokens=budget, multiple=multiple)
    expected = flat(groups)
    assert sorted(t for m in micros for t in m.tokens.tolist()) == list(range(len(expected)))
    for micro in micros:
        columns = zip(micro.predict_row, micro.predict_col, micro.targets, micro.tokens, strict=True)
        for row, col, target, number in columns:
            prompt, completion, place = expected[number]
            assert target == completion[place]
            text = [*prompt, *completion[:place]]
            assert visible_text(micro, row, col) == (text, list(range(len(text))))


@settings(max_examples=100, deadline=None)
@given(groups=groups_of_a_step, budget=st.integers(1, 60), multiple=st.sampled_from([1, 8]))
def test_rows_keep_the_budget_unless_one_pair_alone_is_longer(
    groups: list[tuple[list[int], list[list[int]]]], budget: int, multiple: int
) -> None:
    numbered = number_tokens(groups)
    for micro in pack(numbered, max_tokens=budget, multiple=multiple):
        assert micro.input_ids.shape[0] == 1
        assert micro.num_positions % multiple == 0
        assert micro.group is not None
        used = int((micro.group >= 0).sum())
        assert micro.num_positions - used < multiple
        if used > budget:
            assert micro.branch is not None
            assert micro.branch.max() == 1  # one prompt with one completion
            assert micro.group.max() == 0
    for micro in pad(numbered, max_tokens=budget, multiple=multiple):
        assert micro.num_positions <= budget or micro.input_ids.shape[0] == 1


def test_a_group_by_hand() -> None:
    (micro,) = pack(number_tokens([([7, 8], [[1, 2], [3]])]), max_tokens=16, multiple=4)
    assert micro.group is not None
    assert micro.branch is not None
    assert micro.input_ids.tolist() == [[7, 8, 1, 2, 3, 0, 0, 0]]
    assert micro.position_ids.tolist() == [[0, 1, 2, 3, 2, 0, 0, 0]]
    assert micro.group.tolist() == [[0, 0, 0, 0, 0, -1, -1, -1]]
    assert micro.branch.tolist() == [[0, 0, 1, 1, 2, 0, 0, 0]]
    assert micro.predict_col.tolist() == [1, 2, 1]
    assert micro.targets.tolist() == [1, 2, 3]
    assert micro.tokens.tolist() == [0, 1, 2]


@settings(max_examples=60, deadline=None)
@given(
    groups=groups_of_a_step,
    budget=st.integers(1, 60),
    multiple=st.sampled_from([1, 8]),
    packing=st.booleans(),
    data=st.data(),
)
def test_what_is_given_is_read_and_not_predicted(
    groups: list[tuple[list[int], list[list[int]]]], budget: int, multiple: int, packing: bool, data: st.DataObject
) -> None:
    given_of = [[data.draw(st.integers(0, len(c) - 1)) for c in completions] for _, completions in groups]
    numbered = number_tokens(groups, given_of)
    make = pack if packing else pad
    micros = make(numbered, max_tokens=budget, multiple=multiple)
    expected = [
        (prompt, c, place)
        for (prompt, completions), reads in zip(groups, given_of, strict=True)
        for c, read in zip(completions, reads, strict=True)
        for place in range(read, len(c))
    ]
    assert sum(s.num_tokens for s in numbered) == len(expected)
    assert sorted(t for m in micros for t in m.tokens.tolist()) == list(range(len(expected)))
    for micro in micros:
        columns = zip(micro.predict_row, micro.predict_col, micro.targets, micro.tokens, strict=True)
        for row, col, target, number in columns:
            prompt, completion, place = expected[number]
            text = [*prompt, *completion[:place]]
            assert target == completion[place]
            assert visible_text(micro, row, col) == (text, list(range(len(text))))


def test_what_is_given_by_hand() -> None:
    (micro,) = pack(number_tokens([([7, 8], [[1, 2], [3, 4, 5]]), ([9], [[6]])], [[1, 2], [0]]), max_tokens=16)
    assert micro.input_ids.tolist() == [[7, 8, 1, 2, 3, 4, 5, 9, 6]]
    assert micro.predict_col.tolist() == [2, 5, 7]
    assert micro.targets.tolist() == [2, 5, 6]
    assert micro.tokens.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="at least one token"):
        pack(number_tokens([([7], [[1, 2]])], [[2]]), max_tokens=16)


def test_a_group_that_does_not_fit_is_split_and_its_prompt_repeated() -> None:
    micros = pack(number_tokens([([7, 8], [[1, 1], [2, 2], [3, 3]])]), max_tokens=6)
    assert [m.input_ids.tolist() for m in micros] == [[[7, 8, 1, 1, 2, 2]], [[7, 8, 3, 3]]]
    assert [m.tokens.tolist() for m in micros] == [[0, 1, 2, 3], [4, 5]]


def test_a_pair_longer_than_the_budget_has_a_row_of_its_own() -> None:
    micros = pack(number_tokens([([7] * 5, [[1] * 5, [2]]), ([9], [[3]])]), max_tokens=6)
    assert [m.input_ids.tolist() for m in micros] == [[[7] * 5 + [1] * 5], [[7] * 5 + [2]], [[9, 3]]]


def test_padded_rows_by_hand() -> None:
    first, second = pad(number_tokens([([7, 8], [[1], [2, 3]]), ([9], [[4]])]), max_tokens=8)
    assert first.input_ids.tolist() == [[7, 8, 2, 3], [7, 8, 1, 0]]  # the longest first
    assert first.predict_row.tolist() == [0, 0, 1]
    assert first.predict_col.tolist() == [1, 2, 1]
    assert first.tokens.tolist() == [1, 2, 0]
    assert first.group is None
    assert second.input_ids.tolist() == [[9, 4]]


@pytest.mark.parametrize("make", [pack, pad])
@pytest.mark.parametrize("empty", [([], [[1]]), ([1], [[1], []])])
def test_empty_sequences_are_refused(
    make: Callable[..., list[MicroBatch]], empty: tuple[list[int], list[list[int]]]
) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        make(number_tokens([([5], [[6]]), empty]), max_tokens=32)


def logprobs_of(policy: Policy, micros: list[MicroBatch], total: int) -> list[float]:
    found = torch.full((total,), float("nan"))
    with torch.no_grad():
        for micro in micros:
            rows = to_device(micro, torch.device("cpu"), "dense")
            found[rows.tokens] = policy(rows, temperature=0.7).logprobs
    return found.tolist()


@pytest.mark.parametrize("budget", [24, 64, 1000])
def test_packed_and_padded_rows_give_the_models_own_logprobs(
    budget: int, tiny_folder: Path, plain_logprobs: Callable[..., list[float]]
) -> None:
    lm = AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation="sdpa").eval()
    rng = np.random.default_rng(1)
    groups = [
        (rng.integers(0, 300, size=size).tolist(), [rng.integers(0, 300, size=n).tolist() for n in lengths])
        for size, lengths in ((9, (3, 1, 8)), (1, (5, 5)), (17, (2, 12, 4, 1)))
    ]
    expected = [p for prompt, completions in groups for c in completions for p in plain_logprobs(lm, prompt, c, 0.7)]
    numbered: list[Sequences] = number_tokens(groups)
    policy = Policy(load_lm(tiny_folder, attention="dense"))
    packed = pack(numbered, max_tokens=budget, multiple=8)
    stacked = stack(packed, max_tokens=4 * budget)
    for micros in (packed, stacked, pad(numbered, max_tokens=budget, multiple=8)):
        assert logprobs_of(policy, micros, len(expected)) == pytest.approx(expected, abs=1e-5)
