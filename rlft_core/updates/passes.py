"""Forward passes over a whole step without gradient: log-probs and hidden states on the step's flat token axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rlft_core.batching.packing import MicroBatch, Sequences
from rlft_core.models.attention import DeviceRows, to_device
from rlft_core.models.compute import Compute
from rlft_core.updates.collective import Collective


@dataclass(frozen=True, slots=True)
class Work:
    """One micro-batch on its device; `real` is False for one that only keeps the ranks in step."""

    rows: DeviceRows
    real: bool


def micro_batches(groups: Sequence[Sequences], compute: Compute, collective: Collective) -> Iterator[Work]:
    """The micro-batches of this rank, and idle ones until every rank has done as many.

    A sharded model gathers its weights in every pass, so all ranks must make the same number of passes.
    """
    micros = compute.rows(groups)
    wanted = int(collective.max(torch.tensor([len(micros)]))[0])
    for micro in micros:
        yield Work(to_device(micro, compute.device, compute.attention), real=True)
    for _ in range(wanted - len(micros)):
        yield Work(to_device(_idle(compute), compute.device, compute.attention), real=False)


def _idle(compute: Compute) -> MicroBatch:
    """The shortest row, with no token to predict: a pass over it has no output and no gradient."""
    row = compute.rows([Sequences([0], [[0]], 0)])[0]
    nothing = np.zeros(0, dtype=np.int64)
    return replace(row, predict_row=nothing, predict_col=nothing, targets=nothing, tokens=nothing)


@torch.no_grad()
def collect(
    forward: Callable[[DeviceRows], tuple[Tensor, ...]],
    groups: Sequence[Sequences],
    num_tokens: int,
    compute: Compute,
    collective: Collective,
) -> tuple[Tensor, ...]:
    """Run `forward` over all groups; each of its outputs [T', ...] is put in its place on the [num_tokens, ...] axis.

    Results are float32 on the CPU. With no group at all the outputs are empty.
    """
    found: list[Tensor] = []
    with compute.autocast():
        for work in micro_batches(groups, compute, collective):
            outputs = forward(work.rows)
            if not found:
                found = [torch.zeros(num_tokens, *output.shape[1:]) for output in outputs]
            if work.real:
                for whole, output in zip(found, outputs, strict=True):
                    whole[work.rows.tokens.cpu()] = output.float().cpu()
    return tuple(found)


@contextmanager
def without_adapter(lm: torch.nn.Module, *, active: bool) -> Iterator[None]:
    """The same network with its LoRA adapter off, when `active`."""
    if not active:
        yield
        return
    with lm.disable_adapter():  # type: ignore[operator]
        yield
