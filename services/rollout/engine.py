"""What a rollout engine is, and how it is described. One protocol; `vllm_engine` is the real one, `fake_engine` a scripted one.

An engine is a plain synchronous object that one thread owns: requests are added, `step()` advances all of them by one
token and returns the groups that are complete. `services.rollout.actor` puts it into a Ray actor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rlft_core.types import Prompt, RolloutGroup
from services.weights.bundle import Manifest


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn. `temperature` 0 decodes greedily; `seed` comes with each prompt."""

    temperature: float
    max_tokens: int
    min_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Everything an engine needs to start. `model` is a folder; sizes are in tokens unless the name says otherwise."""

    model: str
    dtype: str
    max_length: int
    max_sequences: int
    block_tokens: int
    kv_cache_bytes: int
    gpu_memory_share: float
    tensor_parallel: int
    enforce_eager: bool
    on_gpu: bool
    trust_remote_code: bool
    lora_rank: int = 0


class Engine(Protocol):
    """One model that samples. Not thread-safe: one thread owns it."""

    def add(self, prompt: Prompt, sampling: Sampling) -> str:
        """Queue a prompt; returns the request's id. Raises EngineError when the prompt does not fit."""
        ...

    def add_probe(self, token_ids: Sequence[int], num_targets: int) -> str:
        """Queue a given sequence whose last `num_targets` log-probs, at temperature 1, are wanted; returns its id."""
        ...

    def add_question(self, token_ids: Sequence[int], next_tokens: Sequence[int], *, plain: bool) -> str:
        """Queue a prompt of which the log-probs of some next tokens are wanted, at temperature 1; returns its id. `plain`:
        of the model without its adapter. Raises EngineError when the prompt does not fit."""
        ...

    def step(self) -> list[tuple[str, RolloutGroup | np.ndarray]]:
        """Advance by one token; returns what became complete by request id: groups, and float32 arrays: of probes
        [num_targets], of questions [num next tokens]."""
        ...

    @property
    def busy(self) -> bool:
        """Are there requests that are not complete?"""
        ...

    @property
    def version(self) -> int:
        """Version of the weights it holds; -1 before the first load."""
        ...

    def load(self, manifest: Manifest, chunks: Sequence[np.ndarray]) -> None:
        """Take new weights and forget everything computed with the old ones. Raises SyncError, and then holds none."""
        ...

    def close(self) -> None:
        """End it and free its memory."""
        ...
