"""The attention that models use on a GPU: FlexAttention for packed rows, plain causal attention for padded ones.

Registered with transformers under a name of its own. FlexAttention does not follow autocast in every release of torch:
rotary embeddings leave queries and keys in float32 beside bfloat16 values, which is refused, or silently computed in
float32 several times slower. Here all three are cast as scaled-dot-product attention would cast them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

FLEX_ATTENTION = "rlft_flex"


def attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """[B, H, L, D] queries, keys and values (of fewer heads) -> [B, L, H, D], in the precision of autocast."""
    if not isinstance(attention_mask, BlockMask):
        plain: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return plain
    device = query.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    packed: tuple[Tensor, Tensor | None] = flex_attention_forward(module, query, key, value, attention_mask, **options)
    return packed


AttentionInterface.register(FLEX_ATTENTION, attend)
AttentionMaskInterface.register(FLEX_ATTENTION, sdpa_mask)
