"""Weights on the wire: one version of a model's parameters as flat byte chunks with a manifest.

The learner casts its float32 masters to the engine's dtype straight into the chunks; an engine reads them as tensor
views without a copy. Knows nothing of Ray or vLLM: a chunk is a NumPy array wherever it lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

CHUNK_BYTES = 1 << 30
_ALIGN = 64


@dataclass(frozen=True, slots=True)
class Parameter:
    """Where one parameter lies: `shape`, and `offset` bytes into chunk number `chunk`."""

    name: str
    shape: tuple[int, ...]
    chunk: int
    offset: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one version holds. `dtype` is a torch dtype's name; `kind` is "full", or "adapter" for LoRA weights."""

    version: int
    dtype: str
    parameters: tuple[Parameter, ...]
    num_bytes: int
    kind: str = "full"
    adapter_config: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """A fixed sequence and what the learner thinks of it.

    `token_ids` [P + T]; `logprobs` [T] float32 are the learner's log-probs of the last T tokens at temperature 1,
    computed with weights rounded to the engine's dtype.
    """

    token_ids: tuple[int, ...]
    logprobs: np.ndarray

    @property
    def num_targets(self) -> int:
        return len(self.logprobs)


def flatten(
    parameters: Iterable[tuple[str, torch.Tensor]], *, version: int, dtype: torch.dtype, chunk_bytes: int = CHUNK_BYTES
) -> tuple[Manifest, list[np.ndarray]]:
    """Cast named tensors to `dtype` into flat uint8 chunks of at most `chunk_bytes` (a larger tensor has its own)."""
    placed: list[Parameter] = []
    tensors: list[torch.Tensor] = []
    sizes: list[int] = []
    width = torch.empty(0, dtype=dtype).element_size()
    for name, tensor in parameters:
        num_bytes = tensor.numel() * width
        if not sizes or (sizes[-1] and sizes[-1] + num_bytes > chunk_bytes):
            sizes.append(0)
        placed.append(Parameter(name, tuple(tensor.shape), len(sizes) - 1, sizes[-1]))
        tensors.append(tensor)
        sizes[-1] += -(-num_bytes // _ALIGN) * _ALIGN
    chunks = [np.empty(size, dtype=np.uint8) for size in sizes]
    for parameter, tensor in zip(placed, tensors, strict=True):
        _view(chunks[parameter.chunk], parameter, dtype).copy_(tensor.detach())
    manifest = Manifest(version, str(dtype).removeprefix("torch."), tuple(placed), sum(sizes))
    return manifest, chunks


def unflatten(manifest: Manifest, chunks: Sequence[np.ndarray]) -> Iterator[tuple[str, torch.Tensor]]:
    """Named tensors that share memory with the chunks. They must not be written to."""
    dtype = getattr(torch, manifest.dtype)
    for parameter in manifest.parameters:
        yield parameter.name, _view(chunks[parameter.chunk], parameter, dtype)


def _view(chunk: np.ndarray, parameter: Parameter, dtype: torch.dtype) -> torch.Tensor:
    numel = int(np.prod(parameter.shape, dtype=np.int64))
    width = torch.empty(0, dtype=dtype).element_size()
    data = chunk[parameter.offset : parameter.offset + numel * width]
    if not data.flags.writeable:  # a view of Ray's object store; torch would warn about every parameter
        data = np.frombuffer(data, dtype=np.uint8)
        return _read_only_view(data, parameter.shape, dtype)
    return torch.from_numpy(data).view(dtype).view(parameter.shape)


def _read_only_view(data: np.ndarray, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(data).view(dtype).view(shape)
