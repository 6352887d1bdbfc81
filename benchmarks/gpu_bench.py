"""Where the GPU benchmark runs and how it takes time and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu_models import TINY, Load, ModelSize
from rlft_core.models.attention import AttentionKind, attention_kind
from rlft_core.models.compute import Compute


@dataclass(frozen=True, slots=True)
class Bench:
    """Where it runs, and what counts as the peak. `tiny` replaces every model and experience by a very small one."""

    device: torch.device
    peak_flops: float
    tiny: bool
    repeats: int = 2

    @property
    def kind(self) -> AttentionKind:
        return attention_kind(self.device)

    def size(self, size: ModelSize) -> ModelSize:
        return TINY if self.tiny else size

    def load(self, load: Load) -> Load:
        return Load(2, 3, 12, 2, 6) if self.tiny else load

    def compute(
        self, row_tokens: int, *, packing: bool, batch_tokens: int = 0, dtype: torch.dtype = torch.bfloat16
    ) -> Compute:
        if self.tiny:
            row_tokens, batch_tokens = 32, 64 if batch_tokens else 0
        return Compute(self.device, dtype, self.kind, packing, row_tokens, batch_tokens)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> tuple[float, float, float]:
        """(first, median of the later ones, peak GiB): the first call compiles and is not counted."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(1 + self.repeats):
            self.synchronize()
            started = time.perf_counter()
            work()
            self.synchronize()
            times.append(time.perf_counter() - started)
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0
        return times[0], statistics.median(times[1:]), peak


def tell(record: dict[str, Any]) -> None:
    """Print a record at once, briefly."""
    print({key: float(f"{v:.4g}") if isinstance(v, float) else v for key, v in record.items()}, flush=True)
