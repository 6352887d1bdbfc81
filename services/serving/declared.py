"""The service as Ray Serve's declarative configuration starts it: `serve deploy`, or a RayService on Kubernetes.

    applications:
      - name: rlft
        route_prefix: /
        import_path: services.serving.declared:build
        args: { models: [last-mile], names: [summaries], runs_dir: /runs, replicas: 2 }

Keys come from RLFT_API_KEYS or from `keys`, a file of them. Where there are none the service is for this machine alone, which
only `http_options` can say: so without keys it does not start here.
"""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError
from ray import serve

from rlft_core.config.base import Strict
from rlft_core.config.postprocess import PostprocessConfig
from rlft_core.errors import ConfigError
from rlft_core.serving.requests import RequestLimits
from services.keys import read_keys
from services.serving.app import ServiceConfig, application
from services.serving.run import served_models
from services.serving.settings import EngineOptions, FrontOptions, Scaling

_log = logging.getLogger(__name__)


class DeclaredService(Strict):
    """The `args` of the application; the names are those of `rlft serve`."""

    models: tuple[str, ...] = Field(min_length=1)
    """RUN[:STAGE][@STEP] of each model."""
    names: tuple[str, ...] = ()
    """Their names for clients, in the same order."""
    runs_dir: str = "runs"
    """Folder that holds the runs, as every replica sees it."""
    state: str | None = None
    """File that remembers promotes; default: RUNS_DIR/.serving/state.json."""
    keys: str | None = None
    """File of API keys; default: the variable RLFT_API_KEYS."""
    replicas: NonNegativeInt = 1
    """Engines of each model; 0 ends all of a model that nobody asks."""
    max_replicas: PositiveInt = 1
    """Up to so many, by load."""
    gpu: bool = False
    """Whether engines run on GPUs."""
    tensor_parallel: PositiveInt = 1
    """GPUs of each engine."""
    max_length: NonNegativeInt = 0
    """Longest prompt and answer in tokens; 0: as it was tuned."""
    kv_cache_mb: PositiveInt = 256
    """Cache of an engine without a GPU."""
    threads: PositiveInt = 1
    """Compute threads of an engine without a GPU."""
    max_at_once: PositiveInt = 256
    """Requests in work; more are told 429."""
    max_tokens: PositiveInt = 4096
    """Most tokens that a request may ask for."""
    requests_per_minute: NonNegativeInt = 0
    """Of each key; 0: no limit."""
    tokens_per_minute: NonNegativeInt = 0
    """Of each key, read and written; 0: no limit."""
    postprocess: PostprocessConfig | None = None
    """What is cut off answers."""
    merge: bool = False
    """Merge adapters into their base: an engine for each."""


def build(args: dict[str, object]) -> serve.Application:
    """The application. Raises ConfigError or CheckpointError."""
    return application(configured(args))


def configured(args: dict[str, object]) -> ServiceConfig:
    """What the arguments say, with everything checked that can be. Raises ConfigError or CheckpointError."""
    try:
        told = DeclaredService.model_validate(args)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"args.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    keys = read_keys(None if told.keys is None else Path(told.keys))
    if not keys:
        raise ConfigError("there are no API keys: give `keys` in args, or RLFT_API_KEYS; `rlft key NAME` makes one")
    runs_dir = Path(told.runs_dir).absolute()
    state = runs_dir / ".serving" / "state.json" if told.state is None else Path(told.state).absolute()
    engine = EngineOptions(
        max_length=told.max_length,
        max_tokens=told.max_tokens,
        kv_cache_mb=told.kv_cache_mb,
        tensor_parallel=told.tensor_parallel,
        on_gpu=told.gpu,
        num_threads=told.threads,
    )
    front = FrontOptions(
        keys=keys,
        limits=RequestLimits(max_at_once=told.max_at_once, max_tokens=told.max_tokens),
        requests_per_minute=told.requests_per_minute,
        tokens_per_minute=told.tokens_per_minute,
        postprocess=told.postprocess,
    )
    return ServiceConfig(
        models=served_models(told.models, told.names, runs_dir, state, _log.warning, merged=told.merge),
        runs_dir=runs_dir,
        state_file=state,
        front=front,
        options=engine,
        scaling=Scaling(told.replicas, max(told.replicas, told.max_replicas)),
    )
