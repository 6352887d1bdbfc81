"""Which position may attend to which, in the form the device wants.

    CPU   a dense boolean mask for scaled-dot-product attention: rows are short, the budget bounds its size
    CUDA  a block mask for FlexAttention: blocks that are all forbidden are neither stored nor computed

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
            rows = zip(micro.group, micro.branch, strict=True)
            mask = tensor(np.stack([attention_allowed(group, branch) for group, branch in rows]))[:, None]
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


def _block_mask(group: Tensor, branch: Tensor) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def allowed(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        visible = (branch[b, key] == 0) | (branch[b, key] == branch[b, query])
        packed = (query >= key) & (group[b, query] == group[b, key]) & visible
        return torch.where(group[b, query] == PAD_SEGMENT, query == key, packed)

    rows, length = group.shape
    return create_block_mask(allowed, rows, None, length, length, device=str(group.device), BLOCK_SIZE=FLEX_BLOCK)
