"""Shared-prefix packing: groups of completions become rows in which each prompt is computed once.

    [prompt, c1, c2, ..., cn]   positions restart after the prompt for every completion
    completion k attends to its prompt and to itself, never to another completion or group

Several groups share a row up to a token budget; a group that does not fit is split and its prompt repeated. Without
packing every completion gets a row `[prompt, completion]`, padded on the right, and rows are stacked up to the budget.

This file only arranges integers. Masks are made in `rlft_core.models.attention`; nothing here knows a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PAD_SEGMENT = -1


@dataclass(frozen=True, slots=True)
class Sequences:
    """A prompt and its completions, as token ids; `first_token` numbers their completion tokens within the step.

    The completion tokens of all groups of a step form one flat axis [T]: old log-probs, rewards and advantages live
    on it, and every micro-batch says which of its entries it computes. The first `given[k]` tokens of completion k are
    read and not predicted, and have no entry (empty: none are): prompts that only begin alike share their beginning.
    """

    prompt: Sequence[int]
    completions: Sequence[Sequence[int]]
    first_token: int
    given: Sequence[int] = ()

    @property
    def num_tokens(self) -> int:
        """Entries on the flat axis."""
        return sum(len(c) for c in self.completions) - sum(self.given)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows that go through the model together.

    `input_ids`, `position_ids` [B, L] int64. `group`, `branch` [B, L] int64 describe the attention of packed rows
    (branch 0 is the prompt, k > 0 the k-th completion, group -1 padding); both are None for padded rows, which are
    plainly causal. Entry t of `predict_row`, `predict_col`, `targets`, `tokens` [T']: the hidden state at
    [row, col] predicts `targets[t]`, which is number `tokens[t]` on the step's flat token axis.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    group: np.ndarray | None
    branch: np.ndarray | None
    predict_row: np.ndarray
    predict_col: np.ndarray
    targets: np.ndarray
    tokens: np.ndarray

    @property
    def num_positions(self) -> int:
        """Positions computed, padding included: what memory and time grow with."""
        return int(self.input_ids.size)


@dataclass(slots=True)
class _Row:
    """A row being filled."""

    ids: list[int]
    positions: list[int]
    group: list[int]
    branch: list[int]
    predict: list[int]
    targets: list[int]
    tokens: list[int]


def number_tokens(
    groups: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]], given: Sequence[Sequence[int]] = ()
) -> list[Sequences]:
    """Give consecutive numbers to the completion tokens of (prompt, completions) pairs; `given`: as in `Sequences`."""
    numbered: list[Sequences] = []
    first = 0
    for (prompt, completions), read in zip(groups, given or [()] * len(groups), strict=True):
        numbered.append(Sequences(prompt, completions, first, read))
        first += numbered[-1].num_tokens
    return numbered


def pack(groups: Sequence[Sequences], *, max_tokens: int, multiple: int = 1) -> list[MicroBatch]:
    """Pack groups into rows of at most `max_tokens` positions, one row a micro-batch, in order of length.

    Row lengths are rounded up to a `multiple` with padding that attends to itself only. A single prompt with one
    completion longer than the budget gets a row of its own. Raises ValueError for an empty prompt or completion.
    """
    rows: list[_Row] = []
    row: _Row | None = None
    order = sorted(range(len(groups)), key=lambda i: (-_positions(groups[i]), i))
    for index in order:
        for part in _split(groups[index], max_tokens):
            if row is None or len(row.ids) + _positions(part) > max_tokens:
                row = _Row([], [], [], [], [], [], [])
                rows.append(row)
            _append(row, part)
    return [_finish(row, multiple) for row in rows]


def stack(micros: Sequence[MicroBatch], *, max_tokens: int) -> list[MicroBatch]:
    """Packed rows of similar length go through the model together, up to `max_tokens` positions.

    Short rows keep attention cheap, which grows with the square of their length; large stacks keep matrix products
    large. Rows that are alone already longer than the budget stay alone.
    """
    stacks: list[list[MicroBatch]] = []
    for micro in sorted(micros, key=lambda m: -m.input_ids.shape[1]):
        if stacks and (len(stacks[-1]) + 1) * stacks[-1][0].input_ids.shape[1] <= max_tokens:
            stacks[-1].append(micro)
        else:
            stacks.append([micro])
    return [_merge(rows) for rows in stacks]


def pad(groups: Sequence[Sequences], *, max_tokens: int, multiple: int = 1) -> list[MicroBatch]:
    """One completion a row, padded on the right, stacked so that rows x length stays within `max_tokens`.

    Raises ValueError for an empty prompt or completion.
    """
    for group in groups:
        _check(group)
    singles = [Sequences(g.prompt, [c], first, [given]) for g in groups for c, given, first in _numbered(g)]
    singles.sort(key=lambda s: (-_positions(s), s.first_token))
    batches: list[MicroBatch] = []
    start = 0
    while start < len(singles):
        length = -(-_positions(singles[start]) // multiple) * multiple
        count = max(1, max_tokens // length)
        batches.append(_stack(singles[start : start + count], length))
        start += count
    return batches


def attention_allowed(group: np.ndarray, branch: np.ndarray) -> np.ndarray:
    """[L], [L] -> [L, L] bool: may position i attend to position j? The definition that all masks must follow."""
    index = np.arange(len(group))
    causal = index[:, None] >= index[None, :]
    same_group = group[:, None] == group[None, :]
    visible = (branch[None, :] == 0) | (branch[:, None] == branch[None, :])
    allowed: np.ndarray = causal & same_group & visible
    padding = group == PAD_SEGMENT
    allowed[padding] = False
    allowed[padding, index[padding]] = True
    return allowed


def _check(group: Sequences) -> None:
    if not len(group.prompt) or any(len(c) <= given for c, given, _ in _numbered(group)):
        raise ValueError("a prompt and each of its completions need at least one token")


def _positions(group: Sequences) -> int:
    return len(group.prompt) + sum(len(c) for c in group.completions)


def _numbered(group: Sequences) -> list[tuple[Sequence[int], int, int]]:
    """Each completion, how many of its tokens are only read, and the number of the first that is predicted."""
    found, first = [], group.first_token
    for completion, given in zip(group.completions, group.given or [0] * len(group.completions), strict=True):
        found.append((completion, given, first))
        first += len(completion) - given
    return found


def _split(group: Sequences, max_tokens: int) -> list[Sequences]:
    """Parts of a group that each fit the budget, the prompt repeated in every part."""
    _check(group)
    parts: list[Sequences] = []
    current: list[Sequence[int]] = []
    read: list[int] = []
    first, used = group.first_token, len(group.prompt)
    for completion, given, number in _numbered(group):
        if current and used + len(completion) > max_tokens:
            parts.append(Sequences(group.prompt, current, first, read))
            current, read, first, used = [], [], number, len(group.prompt)
        current.append(completion)
        read.append(given)
        used += len(completion)
    if current:
        parts.append(Sequences(group.prompt, current, first, read))
    return parts


def _append(row: _Row, part: Sequences) -> None:
    group = row.group[-1] + 1 if row.group else 0
    num_prompt, start = len(part.prompt), len(row.ids)
    row.ids += part.prompt
    row.positions += range(num_prompt)
    row.group += [group] * num_prompt
    row.branch += [0] * num_prompt
    for branch, (completion, given, number) in enumerate(_numbered(part), start=1):
        length, at = len(completion), len(row.ids)
        row.ids += completion
        row.positions += range(num_prompt, num_prompt + length)
        row.group += [group] * length
        row.branch += [branch] * length
        # The prompt's last position predicts the first token of every completion.
        row.predict += [start + num_prompt - 1, *range(at, at + length - 1)][given:]
        row.targets += completion[given:]
        row.tokens += range(number, number + length - given)


def _finish(row: _Row, multiple: int) -> MicroBatch:
    extra = -len(row.ids) % multiple
    predict = np.asarray(row.predict, dtype=np.int64)
    return MicroBatch(
        input_ids=np.asarray([row.ids + [0] * extra], dtype=np.int64),
        position_ids=np.asarray([row.positions + [0] * extra], dtype=np.int64),
        group=np.asarray([row.group + [PAD_SEGMENT] * extra], dtype=np.int64),
        branch=np.asarray([row.branch + [0] * extra], dtype=np.int64),
        predict_row=np.zeros_like(predict),
        predict_col=predict,
        targets=np.asarray(row.targets, dtype=np.int64),
        tokens=np.asarray(row.tokens, dtype=np.int64),
    )


def _merge(rows: Sequence[MicroBatch]) -> MicroBatch:
    length = rows[0].input_ids.shape[1]

    def widened(arrays: Sequence[np.ndarray | None], filler: int) -> np.ndarray:
        whole = np.full((len(rows), length), filler, dtype=np.int64)
        for index, array in enumerate(arrays):
            assert array is not None, "padded rows are stacked already"
            whole[index, : array.shape[1]] = array[0]
        return whole

    return MicroBatch(
        input_ids=widened([row.input_ids for row in rows], 0),
        position_ids=widened([row.position_ids for row in rows], 0),
        group=widened([row.group for row in rows], PAD_SEGMENT),
        branch=widened([row.branch for row in rows], 0),
        predict_row=np.concatenate([np.full(len(row.targets), index) for index, row in enumerate(rows)]),
        predict_col=np.concatenate([row.predict_col for row in rows]),
        targets=np.concatenate([row.targets for row in rows]),
        tokens=np.concatenate([row.tokens for row in rows]),
    )


def _stack(singles: Sequence[Sequences], length: int) -> MicroBatch:
    ids = np.zeros((len(singles), length), dtype=np.int64)
    rows: list[int] = []
    cols: list[int] = []
    targets: list[int] = []
    tokens: list[int] = []
    for row, single in enumerate(singles):
        ((completion, given, number),) = _numbered(single)
        num_prompt, num_targets = len(single.prompt), len(completion) - given
        ids[row, : num_prompt + len(completion)] = [*single.prompt, *completion]
        rows += [row] * num_targets
        cols += range(num_prompt - 1 + given, num_prompt + len(completion) - 1)
        targets += completion[given:]
        tokens += range(number, number + num_targets)
    return MicroBatch(
        input_ids=ids,
        position_ids=np.broadcast_to(np.arange(length, dtype=np.int64), ids.shape).copy(),
        group=None,
        branch=None,
        predict_row=np.asarray(rows, dtype=np.int64),
        predict_col=np.asarray(cols, dtype=np.int64),
        targets=np.asarray(targets, dtype=np.int64),
        tokens=np.asarray(tokens, dtype=np.int64),
    )
