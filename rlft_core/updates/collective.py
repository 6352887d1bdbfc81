"""What the ranks of a learner tell each other. One protocol: `Alone` for a single process, `Ranks` for a process group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from rlft_core.masking import Tally, tallies_from_tensors, tallies_to_tensors, tally


class Collective(Protocol):
    """Sums and maxima over all ranks. Every rank must make the same calls in the same order."""

    @property
    def rank(self) -> int: ...

    @property
    def num_ranks(self) -> int: ...

    def sum(self, values: Tensor) -> Tensor:
        """Sum over ranks, as a new tensor."""
        ...

    def max(self, values: Tensor) -> Tensor:
        """Maximum over ranks, as a new tensor."""
        ...

    def union(self, names: Sequence[str]) -> list[str]:
        """All names that any rank holds, sorted."""
        ...

    def barrier(self) -> None:
        """Wait for all ranks."""
        ...


class Alone:
    """A single process."""

    rank = 0
    num_ranks = 1

    def sum(self, values: Tensor) -> Tensor:
        return values.clone()

    def max(self, values: Tensor) -> Tensor:
        return values.clone()

    def union(self, names: Sequence[str]) -> list[str]:
        return sorted(names)

    def barrier(self) -> None:
        """Nobody to wait for."""


class Ranks:
    """The default torch process group. `device` is where its backend wants tensors: the GPU for NCCL."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.rank = dist.get_rank()
        self.num_ranks = dist.get_world_size()

    def sum(self, values: Tensor) -> Tensor:
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: Tensor) -> Tensor:
        return self._reduce(values, dist.ReduceOp.MAX)

    def union(self, names: Sequence[str]) -> list[str]:
        gathered: list[list[str]] = [[] for _ in range(self.num_ranks)]
        dist.all_gather_object(gathered, list(names))
        return sorted({name for part in gathered for name in part})

    def barrier(self) -> None:
        self.sum(torch.zeros(1))

    def _reduce(self, values: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        moved = values.to(self._device, copy=True)
        dist.all_reduce(moved, op=operation)
        return moved.to(values.device)


def sum_tallies(tallies: Mapping[str, Tally], collective: Collective) -> dict[str, Tally]:
    """Tallies of all ranks as those of the whole. A rank without some name adds nothing to it."""
    names = collective.union(list(tallies))
    if not names:
        return {}
    nothing = tally(torch.zeros(0))
    sums, maxima = tallies_to_tensors({name: tallies.get(name, nothing) for name in names})
    return tallies_from_tensors(names, collective.sum(sums), collective.max(maxima))
