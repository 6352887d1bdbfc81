"""The Serve application: a gateway, a registry, and for every model a pool of replicas, and one for its canary.

    clients ─▶ proxy of Serve ─▶ Gateway ─▶ pool of model A | canary of A | pool of model B | ...
                                    └─▶ Registry ◀─ every replica

A canary's pool has no replica, and costs nothing, until there is a canary.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayError

from rlft_core.config.postprocess import PostprocessConfig
from rlft_core.serving.requests import RequestLimits
from rlft_core.serving.routing import Allowance
from rlft_core.serving.state import Served
from services.cluster.placement import engine_environment, environment
from services.keys import Keys
from services.serving.completions import Completions
from services.serving.gateway import Gateway
from services.serving.meters import RayMeters
from services.serving.pools import ServePools
from services.serving.registry import Registry, Reply, Route, canary_of, pool_of
from services.serving.replica import PolicyReplica, RewardReplica
from services.serving.settings import APP, EngineOptions, Patience, Scaling

_log = logging.getLogger(__name__)
_REFRESH_S = 0.5
_MANY = 10_000


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """Everything that a service is made of."""

    models: tuple[Served, ...]
    runs_dir: Path
    state_file: Path
    keys: Keys = field(default_factory=Keys)
    options: EngineOptions = field(default_factory=EngineOptions)
    scaling: Scaling = field(default_factory=Scaling)
    patience: Patience = field(default_factory=Patience)
    limits: RequestLimits = field(default_factory=RequestLimits)
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    postprocess: PostprocessConfig | None = None


class RegistryDeployment(Registry):
    """The registry as one replica of Serve."""

    async def __init__(self, config: ServiceConfig, names: Mapping[str, str]) -> None:  # type: ignore[misc] # Serve awaits it
        super().__init__(
            config.models,
            config.runs_dir,
            config.state_file,
            hold=self._hold_replica,
            swap_s=config.patience.swap_s,
            start_s=config.patience.start_s,
        )
        self._names = names
        self.start()

    async def _hold_replica(self, pool: str) -> None:
        handle = serve.get_deployment_handle(self._names[pool], APP)
        while True:
            response = handle.hold.remote()
            try:
                await response
            except RayError as error:
                _log.warning("%s: its replica is lost, waiting for another: %s", pool, error)
            finally:
                response.cancel()
            await asyncio.sleep(1.0)


class RemoteRegistry:
    """The registry behind its handle."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def routes(self) -> Sequence[Route]:
        """As `Registry.routes`."""
        found: Sequence[Route] = await self._handle.routes.remote()
        return found

    async def overview(self) -> Sequence[Mapping[str, Any]]:
        """As `Registry.overview`."""
        found: Sequence[Mapping[str, Any]] = await self._handle.overview.remote()
        return found

    async def promote(self, name: str, spec: str, percent: float) -> Reply:
        """As `Registry.promote`."""
        found: Reply = await self._handle.promote.remote(name, spec, percent)
        return found

    async def rollback(self, name: str) -> Reply:
        """As `Registry.rollback`."""
        found: Reply = await self._handle.rollback.remote(name)
        return found


class GatewayDeployment:
    """The gateway as one replica of Serve."""

    async def __init__(self, config: ServiceConfig, registry: Any, handles: Mapping[str, Any]) -> None:  # type: ignore[misc] # Serve awaits it
        allowance = Allowance(config.requests_per_minute, config.tokens_per_minute)
        meters = RayMeters()

        def counted(key: str, prompt: int, completion: int) -> None:
            meters.tokens(prompt, completion)
            allowance.take_tokens(key, prompt + completion, asyncio.get_running_loop().time())

        completions = Completions(ServePools(handles), config.patience.request_s, config.postprocess, counted)
        control = RemoteRegistry(registry)
        self._gateway = Gateway(completions, control, config.keys, config.limits, allowance, meters)
        await self._gateway.refresh()
        self._refreshing = asyncio.ensure_future(self._refresh())

    async def __serve_build_asgi_app__(self) -> Any:
        return self._gateway.app()

    async def drain(self, seconds: float) -> int:
        """As `Gateway.drain`."""
        return await self._gateway.drain(seconds)

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_S)
            with suppress(RayError):  # the routes of before hold until the registry is back
                await self._gateway.refresh()


def application(config: ServiceConfig) -> serve.Application:
    """The deployments, bound together."""
    pools = {pool: f"model-{k}" for k, served in enumerate(config.models) for pool in [pool_of(served.name)]}
    pools |= {canary_of(served.name): f"model-{k}-canary" for k, served in enumerate(config.models)}
    quick = {"num_cpus": 0, "runtime_env": {"env_vars": environment(1)}}
    registry = serve.deployment(
        RegistryDeployment, name="registry", max_ongoing_requests=_MANY, ray_actor_options=quick
    ).bind(config, pools)
    handles = {}
    for served in config.models:
        for pool in (pool_of(served.name), canary_of(served.name)):
            handles[pool] = _pool(config, served, pool, pools[pool], registry)
    gateway = serve.deployment(
        serve.ingress()(GatewayDeployment), name="gateway", max_ongoing_requests=_MANY, ray_actor_options=quick
    )
    return gateway.bind(config, registry, handles)


def _pool(config: ServiceConfig, served: Served, pool: str, name: str, registry: Any) -> Any:
    """The deployment of a pool, bound."""
    options = config.options
    policy = served.current.kind == "policy"
    gpus = options.tensor_parallel if policy else 1
    variables = (
        engine_environment(options.num_threads, on_gpu=options.on_gpu) if policy else environment(options.num_threads)
    )
    variables.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)  # here the engine's core has a process of its own
    deployment = serve.deployment(
        PolicyReplica if policy else RewardReplica,
        name=name,
        max_ongoing_requests=_MANY,
        max_queued_requests=config.limits.max_at_once,
        health_check_period_s=2.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_timeout_s=config.patience.drain_s,
        graceful_shutdown_wait_loop_s=0.5,
        autoscaling_config=_autoscaling(config.scaling, canary=pool != pool_of(served.name)),
        ray_actor_options={
            "num_cpus": 1,
            "num_gpus": gpus if options.on_gpu else 0,
            "runtime_env": {"env_vars": variables},
        },
    )
    if policy:
        return deployment.bind(pool, served.name, options, config.patience, registry)
    return deployment.bind(pool, options, registry)


def _autoscaling(scaling: Scaling, *, canary: bool) -> dict[str, Any]:
    least = 0 if canary else scaling.min_replicas
    return {
        "min_replicas": least,
        "initial_replicas": least,
        "max_replicas": max(1, scaling.max_replicas),
        "target_ongoing_requests": scaling.requests_per_replica,
        "upscale_delay_s": 0.0 if canary or not least else 10.0,
        "downscale_delay_s": scaling.idle_s,
    }
