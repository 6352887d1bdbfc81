"""The plan of a run as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Available:
    """What this machine offers: CPUs, GPUs, free main memory, and free disk where runs are written."""

    num_cpus: float
    num_gpus: int
    memory_bytes: int
    disk_free_bytes: int


@dataclass(frozen=True, slots=True)
class Actor:
    """`count` equal processes; CPUs, GPUs and memory are those of one.

    Memory is a GPU's for a process that has GPUs, else main memory; None when it is not known."""

    role: str
    count: int
    num_cpus: float
    num_gpus: float
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage: where it starts, how much it does, and the processes it runs at once.

    `num_rows` are the rows it draws from, `num_samples` what it trains on or generates in all, `num_updates` the
    optimiser steps of the policy, `disk_bytes` what its checkpoints and model take (None: not known).
    """

    name: str
    type: str
    starts_from: tuple[str, ...]
    num_steps: int
    num_rows: int
    num_samples: int
    num_updates: int
    actors: tuple[Actor, ...]
    disk_bytes: int | None

    @property
    def num_cpus(self) -> float:
        """CPUs of all its processes."""
        return sum(actor.count * actor.num_cpus for actor in self.actors)

    @property
    def num_gpus(self) -> float:
        """GPUs of all its processes."""
        return sum(actor.count * actor.num_gpus for actor in self.actors)

    @property
    def memory_bytes(self) -> int | None:
        """Main memory of all its processes without a GPU; None when one of them is not known."""
        sizes = [(actor.count, actor.memory_bytes) for actor in self.actors if not actor.num_gpus]
        known = [count * size for count, size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else None


@dataclass(frozen=True, slots=True)
class PromptLengths:
    """Prompts of one side, in tokens, and how many are left out because they are too long."""

    mean: float
    longest: int
    num_skipped: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do and take. `notes` are facts worth knowing, `warnings` things that may go wrong."""

    name: str
    model: str
    num_parameters: int | None
    dtype: str
    num_rows: Mapping[str, int]
    prompt_tokens: Mapping[str, PromptLengths]
    stages: tuple[StagePlan, ...]
    available: Available
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def disk_bytes(self) -> int | None:
        """What all stages leave on disk; None when one of them is not known."""
        known = [stage.disk_bytes for stage in self.stages if stage.disk_bytes is not None]
        return sum(known) if len(known) == len(self.stages) else None
