"""A model folder as a publication: weights that no learner holds, for engines to load."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import ray
import torch
from safetensors import safe_open

from rlft_core.errors import ModelError
from services.weights.bundle import flatten
from services.weights.publication import Publication


def publication_of(model: str, version: int, dtype: str) -> Publication:
    """The weights of a model folder as a publication; there is no learner to compare with, so no probe."""
    manifest, chunks = flatten(_tensors(Path(model)), version=version, dtype=getattr(torch, dtype))
    return Publication(manifest, tuple(ray.put(chunk) for chunk in chunks), None)


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} has no safetensors files to load weights from")
    with ExitStack() as stack:
        for file in files:
            reader = stack.enter_context(safe_open(file, framework="pt"))
            for name in reader.keys():  # noqa: SIM118 - not a dict
                yield name, reader.get_tensor(name)
