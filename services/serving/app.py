"""The Serve application: a gateway, a registry, and for every model a pool of replicas, and one for its canary.

    clients ─▶ proxy of Serve ─▶ Gateway ─▶ pool of model A | canary of A | pool of adapters B and C | ...
                                    └─▶ Registry ◀─ every replica

A canary's pool has no replica, and costs nothing, until there is a canary. Adapters of one base share a pool, and its engines,
which hold their canaries too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import serve

from rlft_core.serving.state import Served
from services.cluster.placement import engine_environment, environment
from services.serving.gateway_replica import GatewayReplica
from services.serving.registry_replica import RegistryReplica
from services.serving.replica import PolicyReplica, RewardReplica
from services.serving.routes import canary_of, holds_canaries, pools_of
from services.serving.settings import EngineOptions, FrontOptions, Patience, Scaling

_MANY = 10_000


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """Everything that a service is made of."""

    models: tuple[Served, ...]
    runs_dir: Path
    state_file: Path
    front: FrontOptions = field(default_factory=FrontOptions)
    options: EngineOptions = field(default_factory=EngineOptions)
    scaling: Scaling = field(default_factory=Scaling)
    patience: Patience = field(default_factory=Patience)


def application(config: ServiceConfig) -> serve.Application:
    """The deployments, bound together."""
    groups = pools_of(config.models)
    pools = {pool: f"model-{k}" for k, pool in enumerate(groups)}
    pools |= {canary_of(pool): f"{name}-canary" for pool, name in pools.items() if not holds_canaries(groups[pool])}
    quick = {"num_cpus": 0, "runtime_env": {"env_vars": environment(1)}}
    registry = serve.deployment(
        RegistryReplica, name="registry", max_ongoing_requests=_MANY, ray_actor_options=quick
    ).bind(config.models, config.runs_dir, config.state_file, config.patience, pools)
    handles = {}
    for pool, group in groups.items():
        handles[pool] = _pool(config, group, pool, pools[pool], registry, canary=False)
        if not holds_canaries(group):
            trying = canary_of(pool)
            handles[trying] = _pool(config, group, trying, pools[trying], registry, canary=True)
    gateway = serve.deployment(
        serve.ingress()(GatewayReplica), name="gateway", max_ongoing_requests=_MANY, ray_actor_options=quick
    )
    return gateway.bind(config.front, registry, handles)


def _pool(config: ServiceConfig, group: Sequence[Served], pool: str, name: str, registry: Any, *, canary: bool) -> Any:
    """The deployment of a pool, bound."""
    options = config.options
    policy = group[0].current.kind == "policy"
    gpus = options.tensor_parallel if policy else 1
    variables = (
        engine_environment(options.num_threads, on_gpu=options.on_gpu) if policy else environment(options.num_threads)
    )
    deployment = serve.deployment(
        PolicyReplica if policy else RewardReplica,
        name=name,
        max_ongoing_requests=_MANY,
        max_queued_requests=config.front.limits.max_at_once,
        max_constructor_retry_count=2,  # a start takes long, and what is wrong with a model stays wrong
        health_check_period_s=2.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_timeout_s=config.patience.drain_s,
        graceful_shutdown_wait_loop_s=0.5,
        autoscaling_config=_autoscaling(config.scaling, canary=canary),
        ray_actor_options={
            "num_cpus": 1,
            "num_gpus": gpus if options.on_gpu else 0,
            "runtime_env": {"env_vars": variables},
        },
    )
    if policy:
        max_rank = max(served.largest_rank for served in group)
        return deployment.bind(pool, max_rank, options, config.patience, registry)
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
