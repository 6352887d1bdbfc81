"""How rows go through a model: device, precision of matrix products, packing and its token budgets."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from rlft_core.batching.packing import MicroBatch, Sequences, pack, pad, stack
from rlft_core.models.attention import FLEX_BLOCK, AttentionKind

_ROW_MULTIPLE = 8


def quick_dtype(device: torch.device) -> torch.dtype:
    """bfloat16, or float32 on a processor that has no instructions for bfloat16: its products would be many times slower."""
    slow = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return torch.float32 if slow else torch.bfloat16


@dataclass(frozen=True, slots=True)
class Compute:
    """How rows are computed: device, precision of matrix products, packing and its token budgets.

    `max_row_tokens` bounds one packed row, `max_batch_tokens` all rows that go through the model together (0: one).
    """

    device: torch.device
    dtype: torch.dtype
    attention: AttentionKind
    packing: bool
    max_row_tokens: int
    max_batch_tokens: int = 0

    def autocast(self) -> AbstractContextManager[object]:
        """bfloat16 products with float32 masters, or nothing in float32."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def rows(self, groups: Sequence[Sequences]) -> list[MicroBatch]:
        """Micro-batches of some groups."""
        if not self.packing:
            return pad(groups, max_tokens=max(self.max_row_tokens, self.max_batch_tokens), multiple=_ROW_MULTIPLE)
        if self.attention == "dense":  # where attention does not grow with the row, one long row wastes least
            return pack(groups, max_tokens=max(self.max_row_tokens, self.max_batch_tokens))
        rows = pack(groups, max_tokens=self.max_row_tokens, multiple=FLEX_BLOCK)
        return stack(rows, max_tokens=self.max_batch_tokens)
