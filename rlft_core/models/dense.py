"""The attention that models use on a CPU: scaled-dot-product attention, group by group.

A row holds many groups that do not see each other. Under one mask for the whole row most of what attention computes is
thrown away, and the waste grows with the square of the row's length. Here the row is cut into its groups, each attends
under a mask of its own size, and the results are joined again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

DENSE_ATTENTION = "rlft_dense"
_SPANS = "rlft_spans"


@dataclass(frozen=True, slots=True)
class Span:
    """`length` neighbouring positions that see nobody else; `allowed` [length, length] bool, None: plainly causal."""

    length: int
    allowed: Tensor | None


def mask_of(spans: Sequence[Span]) -> Tensor:
    """What is handed to a model as its mask: models pass four dimensions on unread, so the spans travel as an attribute.

    A model that reads it after all sees no mask, computes something else and is found out by `why_not_packable`.
    """
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    setattr(mask, _SPANS, tuple(spans))
    return mask


def attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """[B, H, L, D] queries, keys and values (of fewer heads) -> [B, L, H, D], in float32 for packed rows.

    float32 is not only closer: torch's backward pass of attention on CPUs is slower in bfloat16.
    """
    spans: tuple[Span, ...] | None = getattr(attention_mask, _SPANS, None)
    if spans is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return plain
    num_rows, num_heads, length, size = query.shape
    lengths = [span.length for span in spans]
    cut = zip(
        *(_flat(_at_least_float32(tensor)).split(lengths, dim=2) for tensor in (query, key, value)), spans, strict=True
    )
    with torch.autocast(query.device.type, enabled=False):
        found = [
            scaled_dot_product_attention(
                q, k, v, span.allowed, is_causal=span.allowed is None, scale=options.get("scaling"), enable_gqa=True
            )
            for q, k, v, span in cut
        ]
    joined = torch.cat([part.transpose(1, 2) for part in found], dim=1)
    return joined.view(num_rows, length, num_heads, size), None


def _flat(states: Tensor) -> Tensor:
    """[B, H, L, D] -> [1, H, B L, D], row after row."""
    return states.transpose(0, 1).flatten(1, 2)[None]


def _at_least_float32(states: Tensor) -> Tensor:
    return states.to(torch.promote_types(states.dtype, torch.float32))


AttentionInterface.register(DENSE_ATTENTION, attend)
AttentionMaskInterface.register(DENSE_ATTENTION, sdpa_mask)
