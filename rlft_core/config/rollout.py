"""The rollout engines: how many, how large, and how they sample."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from rlft_core.config.base import Strict


class SamplingConfig(Strict):
    """How completions are drawn. The learner divides its logits by the same temperature."""

    temperature: PositiveFloat = 1.0
    """Logits are divided by this before sampling."""
    max_tokens: PositiveInt = 64
    """Longest completion."""
    min_tokens: NonNegativeInt = 0
    """EOS is not allowed before this many tokens."""


class AutoscaleConfig(Strict):
    """The number of engines follows what the run waits for."""

    min: PositiveInt = 1
    """Fewest engines."""
    max: PositiveInt
    """Most engines."""

    @model_validator(mode="after")
    def _ordered(self) -> AutoscaleConfig:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        return self


class RolloutConfig(Strict):
    """vLLM engines as Ray actors."""

    engine: Literal["vllm", "fake"] = "vllm"
    """`vllm`, or `fake`: a scripted engine without a model, for tests of recipes and rewards."""
    num_engines: PositiveInt = 1
    """Engines that share the prompts of a step; `rlft scale` changes it while the run works."""
    autoscale: AutoscaleConfig | None = None
    """Add engines while the learner waits for samples, and give them back when they are idle."""
    tensor_parallel: PositiveInt = 1
    """GPUs one engine's model is split over."""
    cpus_per_engine: NonNegativeFloat = 1.0
    """CPUs reserved for one engine."""
    threads_per_engine: NonNegativeInt = 0
    """Compute threads of one engine on CPU; 0 shares the machine's cores among the engines."""
    max_sequences: PositiveInt = 64
    """Sequences an engine decodes at once."""
    kv_cache_mb: PositiveInt = 768
    """Key-value cache of one engine on CPU, in MiB."""
    gpu_memory_share: float = Field(default=0.85, gt=0.0, le=1.0)
    """Share of a GPU's memory that an engine takes."""
    block_tokens: PositiveInt = 32
    """Tokens in one block of the key-value cache; prefix caching works in whole blocks."""
    enforce_eager: bool | None = None
    """Skip graph capture and compilation: starts faster, decodes slower. Default: on CPU yes, on GPU no."""
    probe_tolerance: PositiveFloat = 0.15
    """Largest mean |log-prob difference| between engine and learner on the probe before an engine is barred.

    bfloat16 kernels of engine and learner differ by .03 to .06 a token; stale weights by more than 1."""
    start_deadline_s: PositiveFloat = 600.0
    """Longest time an engine may take to start."""
    request_deadline_s: PositiveFloat = 900.0
    """Longest time one group may take."""
    max_restarts: NonNegativeInt = 3
    """How often a dead engine is started again before the run gives up."""
