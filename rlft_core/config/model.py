"""Which model is tuned, in which precision, and which of its weights move."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from rlft_core.config.base import Strict


class LoraConfig(Strict):
    """Low-rank adapters: only they are trained and sent; the frozen reference is the same network with them off."""

    rank: PositiveInt = 16
    """Rank of each adapter."""
    alpha: PositiveFloat = 32.0
    """Scale: the adapter's output is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the adapter's input, only where gradients are computed: there, anything above 0 makes the log-probs differ
    from the engine's."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Module names that get an adapter, as peft understands them."""


class FreezeConfig(Strict):
    """Weights that stay as they are. Freezing the lower half makes an update about twice as fast."""

    embeddings: bool = False
    """Freeze the token embeddings (and with them a tied output head)."""
    bottom_layers: int = Field(default=0, ge=0)
    """Freeze this many transformer layers, counted from the input."""


class ModelConfig(Strict):
    """The model to tune."""

    name: str = "default"
    """`default` (the bundled SmolLM2-135M-Instruct), a folder, or a hub id such as `org/name`."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Precision of the engines and of the learner's matrix products; master weights are always float32. `auto`: bfloat16, but
    float32 on a machine without a GPU whose processor has no instructions for bfloat16 (no AVX-512): there it would be many
    times slower. A run that has begun keeps what it began with."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you have read that code."""
    max_length: PositiveInt = 512
    """Longest prompt plus completion, in tokens. Must fit the model's context."""
    lora: LoraConfig | None = None
    """Train adapters instead of the weights themselves."""
