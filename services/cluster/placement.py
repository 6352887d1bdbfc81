"""Actor classes become actors here: resources, threads and environment of each kind of process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.cores import whole_cores

_QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def share_of_cores(num_processes: int, asked: int = 0) -> int:
    """Compute threads for each of some processes that may run at once."""
    return asked or max(1, whole_cores() // num_processes)


def environment(num_threads: int, search_path: Path | None = None) -> dict[str, str]:
    """Variables of a process that computes with `num_threads` threads; user modules are found in `search_path`."""
    env = {**_QUIET, "OMP_NUM_THREADS": str(num_threads)}
    if search_path is not None:
        env["PYTHONPATH"] = os.pathsep.join([str(search_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return env


def engine_environment(num_threads: int, *, on_gpu: bool) -> dict[str, str]:
    """An engine's: its core runs in the actor's process, and on CPU vLLM must not bind it to cores."""
    env = {**environment(num_threads), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    if not on_gpu:
        env |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "CUDA_VISIBLE_DEVICES": ""}
    return env


def actor_options(
    *, num_cpus: float, num_gpus: float = 0, env: Mapping[str, str], max_concurrency: int = 1, max_restarts: int = 0
) -> dict[str, Any]:
    """Options for `ray.remote(...)(Class).options(**options)`."""
    return {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "max_concurrency": max_concurrency,
        "max_restarts": max_restarts,
        "runtime_env": {"env_vars": dict(env)},
    }


def late(options: Mapping[str, Any], *, local: bool) -> dict[str, Any]:
    """Options of an actor that joins later. A cluster of this machine alone was made as large as the recipe said and counts
    CPUs only logically: there, a latecomer asks for none."""
    return {**options, "num_cpus": 0} if local else dict(options)
