"""Which position may attend to which, in the form the device wants.

    CPU   dense: every group attends on its own, under a small mask, so the length of a row costs nothing
    CUDA  flex: a block mask for FlexAttention; blocks that are all forbidden are neither stored nor computed

Both follow `rlft_core.batching.packing.attention_allowed`. Padded rows need no mask: they are plainly causal, and what
stands to the right of a token never reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rlft_core.batching.packing import PAD_SEGMENT, MicroBatch, attention_allowed
from rlft_core.models.dense import Span, mask_of

AttentionKind = Literal["dense", "flex"]
FLEX_BLOCK = 128


@dataclass(frozen=True, slots=True)
class DeviceRows:
    """A micro-batch on its device: int64 [B, L] rows, the mask in the model's form, int64 [T] selections."""

    input_ids: Tensor
    position_ids: Tensor
    mask: Any
    predict_row: Tensor
    predict_col: Tensor
    targets: Tensor
    tokens: Tensor


def attention_kind(device: torch.device) -> AttentionKind:
    """FlexAttention needs a GPU to be fast."""
    return "flex" if device.type == "cuda" else "dense"


def to_device(micro: MicroBatch, device: torch.device, kind: AttentionKind) -> DeviceRows:
    """Move a micro-batch and make its mask."""

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    mask: Any = None
    if micro.group is not None and micro.branch is not None:
        if kind == "dense":
            mask = mask_of(_spans(micro.group.ravel(), micro.branch.ravel(), device))
        else:
            mask = _block_mask(tensor(micro.group), tensor(micro.branch))
    return DeviceRows(
        input_ids=tensor(micro.input_ids),
        position_ids=tensor(micro.position_ids),
        mask=mask,
        predict_row=tensor(micro.predict_row),
        predict_col=tensor(micro.predict_col),
        targets=tensor(micro.targets),
        tokens=tensor(micro.tokens),
    )


def _spans(group: np.ndarray, branch: np.ndarray, device: torch.device) -> list[Span]:
    """Runs of one group [N] each. A group never crosses the end of a row, but two rows may number theirs alike."""
    starts_prompt = np.diff((branch == 0).astype(np.int8), prepend=0) == 1
    edges = np.flatnonzero((np.diff(group, prepend=group[0]) != 0) | starts_prompt)
    starts = np.unique([0, *edges])
    spans = []
    for start, stop in zip(starts, [*starts[1:], len(group)], strict=True):
        mine, branches = group[start:stop], branch[start:stop]
        plain = mine[0] != PAD_SEGMENT and branches.max() <= 1
        allowed = None if plain else torch.from_numpy(attention_allowed(mine, branches)).to(device)
        spans.append(Span(int(stop - start), allowed))
    return spans


def _block_mask(group: Tensor, branch: Tensor) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def allowed(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        visible = (branch[b, key] == 0) | (branch[b, key] == branch[b, query])
        packed = (query >= key) & (group[b, query] == group[b, key]) & visible
        return torch.where(group[b, query] == PAD_SEGMENT, query == key, packed)

    rows, length = group.shape
    return create_block_mask(allowed, rows, None, length, length, device=str(group.device), BLOCK_SIZE=FLEX_BLOCK)
