"""How engines are run and how much is taken on: what `rlft serve` is told beside which models. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlft_core.config.postprocess import PostprocessConfig
from rlft_core.serving.requests import RequestLimits
from services.keys import Keys

APP = "rlft"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Of every engine. `max_length` 0: as the model was tuned; `max_tokens`: the longest answer, also of those who do not say.
    Sizes are in tokens unless the name says otherwise."""

    max_length: int = 0
    max_tokens: int = 4096
    max_sequences: int = 64
    kv_cache_mb: int = 256
    block_tokens: int = 32
    gpu_memory_share: float = 0.9
    tensor_parallel: int = 1
    on_gpu: bool = False
    num_threads: int = 1


@dataclass(frozen=True, slots=True)
class Scaling:
    """Copies of every model's engine, by load: one more for each `requests_per_replica` at once. `idle_s`: how long less load
    must last before one ends."""

    min_replicas: int = 1
    max_replicas: int = 1
    requests_per_replica: int = 16
    idle_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Patience:
    """Deadlines in seconds. `swap_s`: of one replica's exchange of weights; half of it is for the requests that it has."""

    start_s: float = 600.0
    swap_s: float = 300.0
    drain_s: float = 30.0


@dataclass(frozen=True, slots=True)
class FrontOptions:
    """Of the gateway: who is let in and how much each may ask; `request_s`: how long an answer may take to begin."""

    keys: Keys = field(default_factory=Keys)
    limits: RequestLimits = field(default_factory=RequestLimits)
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    postprocess: PostprocessConfig | None = None
    request_s: float = 600.0
