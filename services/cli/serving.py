"""What `rlft serve` does: from options to a service that runs until it is told to end."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from rlft_core.config.postprocess import PostprocessConfig
from rlft_core.config.recipe import ClusterConfig
from rlft_core.errors import ConfigError
from rlft_core.serving.requests import RequestLimits
from services.cluster.placement import share_of_cores
from services.keys import read_keys
from services.machine import facts
from services.serving.app import ServiceConfig
from services.serving.routes import pools_of
from services.serving.run import check_address, check_memory, served_models, service, wait_for_signal
from services.serving.settings import EngineOptions, FrontOptions, Scaling


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What a person asked for."""

    models: tuple[str, ...]
    names: tuple[str, ...]
    host: str
    port: int
    keys: Path | None
    min_replicas: int
    max_replicas: int
    idle_s: float
    max_length: int
    kv_cache_mb: int
    tensor_parallel: int
    max_at_once: int
    max_tokens: int
    requests_per_minute: int
    tokens_per_minute: int
    postprocess: tuple[str, ...]
    state: Path
    runs_dir: Path
    merge: bool = False


def run_service(options: ServeOptions) -> None:
    """Serve until a signal. Raises UserError for what can be known beforehand, ServiceError for what fails later."""
    console = Console(highlight=False)

    def say(line: str, style: str = "yellow") -> None:
        console.print(Text(line, style=style), soft_wrap=True)

    config = prepared(options, say)
    address = os.environ.get("RAY_ADDRESS", "").strip() or "local"
    say("Starting; an engine takes about half a minute.", "dim")
    with service(config, ClusterConfig(address=address), options.host, options.port) as url:
        for served in config.models:
            how = f", an adapter of {served.current.base}" if served.current.base else ""
            say(f"{served.name}: {served.current.label} ({served.current.kind}{how})", "green")
        say(f"Serving at {url}/v1 - Ctrl-C ends it when its requests are answered.", "green")
        wait_for_signal()
        say("Ending: requests in work are finished first.", "dim")


def prepared(options: ServeOptions, say: Callable[[str], None]) -> ServiceConfig:
    """Everything checked that can be before a process starts. Raises UserError."""
    keys = read_keys(options.keys)
    check_address(options.host, options.port, keys)
    cut = postprocess_of(options.postprocess)
    state = options.state.absolute()
    models = served_models(options.models, options.names, options.runs_dir.absolute(), state, say, merged=options.merge)
    here = facts(run_dir=options.runs_dir)
    front = FrontOptions(
        keys=keys,
        limits=RequestLimits(max_at_once=options.max_at_once, max_tokens=options.max_tokens),
        requests_per_minute=options.requests_per_minute,
        tokens_per_minute=options.tokens_per_minute,
        postprocess=cut,
    )
    engine = EngineOptions(
        max_length=options.max_length,
        max_tokens=options.max_tokens,
        kv_cache_mb=options.kv_cache_mb,
        tensor_parallel=options.tensor_parallel,
        on_gpu=bool(here.gpus),
        num_threads=share_of_cores(max(1, options.min_replicas) * len(pools_of(models))),
    )
    config = ServiceConfig(
        models=models,
        runs_dir=options.runs_dir.absolute(),
        state_file=state,
        front=front,
        options=engine,
        scaling=Scaling(options.min_replicas, options.max_replicas, idle_s=options.idle_s),
    )
    check_memory(models, config, here.memory_available_bytes)
    return config


def postprocess_of(steps: Sequence[str]) -> PostprocessConfig | None:
    """The steps STEP=VALUE. Raises ConfigError."""
    if not steps:
        return None
    content = {}
    for step in steps:
        key, sign, value = step.partition("=")
        if not sign:
            raise ConfigError(f"--postprocess {step}: write STEP=VALUE, such as first_line=true or max_words=12")
        content[key.strip()] = yaml.safe_load(value)
    try:
        return PostprocessConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        there = ", ".join(PostprocessConfig.model_fields)
        raise ConfigError(f"--postprocess {where}: {first['msg']}; steps are {there}") from None
