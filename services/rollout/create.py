"""From the recipe's sections to running engines."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import ray

from rlft_core.config.recipe import Recipe
from rlft_core.config.rollout import RolloutConfig
from services.cluster.placement import actor_options, engine_environment, late, share_of_cores
from services.rollout.actor import RolloutActor
from services.rollout.engine import EngineSettings
from services.rollout.fleet import Fleet
from services.rollout.member import FleetLimits
from services.weights.adapter_room import room_for

_MAX_CONCURRENT_CALLS = 10_000


def create_fleet(
    recipe: Recipe,
    rollout: RolloutConfig,
    model: str | Path,
    *,
    on_gpu: bool,
    notice: Callable[[str], None],
    lora: bool,
    name: str = "engine",
    frozen: bool = False,
) -> Fleet:
    """Start the engines of a stage from a model folder. They hold no version until the first load, unless they are `frozen`
    with the weights of the folder."""
    settings = engine_settings(recipe, rollout, str(model), on_gpu=on_gpu, lora=lora)
    threads = share_of_cores(rollout.num_engines, rollout.threads_per_engine)
    actor = ray.remote(RolloutActor)

    def create(member: str, incarnation: int) -> ray.actor.ActorHandle:
        options = actor_options(
            num_cpus=rollout.cpus_per_engine,
            num_gpus=rollout.tensor_parallel if on_gpu else 0,
            env=engine_environment(threads, on_gpu=on_gpu),
            max_concurrency=_MAX_CONCURRENT_CALLS,
        )
        if int(member.rsplit("-", 1)[1]) >= rollout.num_engines:
            options = late(options, local=recipe.cluster.address == "local")
        return actor.options(**options).remote(member, rollout.engine, settings)

    limits = FleetLimits(
        start_s=rollout.start_deadline_s,
        request_s=rollout.request_deadline_s,
        sync_s=rollout.request_deadline_s,
        max_restarts=rollout.max_restarts,
        # A scripted engine has no model that could agree with the learner's.
        probe_tolerance=rollout.probe_tolerance if rollout.engine == "vllm" else math.inf,
    )
    names = [f"{name}-{index}" for index in range(rollout.num_engines)]
    return Fleet(names, create, limits=limits, notice=notice, frozen=frozen)


def engine_settings(recipe: Recipe, rollout: RolloutConfig, model: str, *, on_gpu: bool, lora: bool) -> EngineSettings:
    """What an engine needs to know, with the defaults that depend on the device."""
    rank = recipe.model.lora.rank if lora and recipe.model.lora else 0
    return EngineSettings(
        model=model,
        dtype=recipe.model.dtype,
        max_length=recipe.model.max_length,
        max_sequences=rollout.max_sequences,
        block_tokens=rollout.block_tokens,
        kv_cache_bytes=rollout.kv_cache_mb << 20,
        gpu_memory_share=rollout.gpu_memory_share,
        tensor_parallel=rollout.tensor_parallel,
        enforce_eager=(not on_gpu) if rollout.enforce_eager is None else rollout.enforce_eager,
        on_gpu=on_gpu,
        trust_remote_code=recipe.model.trust_remote_code,
        lora_rank=room_for(rank) if rank else 0,
    )
