"""Runs a service: looks models up, checks what can be known beforehand, starts, waits for the end, and drains."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import ray
from ray import serve

from rlft_core.config.recipe import ClusterConfig
from rlft_core.errors import ConfigError, ResourceError, ServiceError
from rlft_core.serving.checkpoints import check_model_name, find_checkpoint, parse_spec
from rlft_core.serving.fit import num_weight_bytes
from rlft_core.serving.state import Served, read_state, resumed
from services.cluster.session import Needs, num_gpus_here, session
from services.keys import Keys
from services.serving.app import ServiceConfig, application
from services.serving.routes import pools_of
from services.serving.settings import APP

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_ENGINE_BYTES = 1 << 30  # what an engine's two processes take beside weights and cache


def served_models(
    specs: Sequence[str],
    names: Sequence[str],
    runs_dir: Path,
    state_file: Path,
    notice: Callable[[str], None],
    *,
    merged: bool = False,
) -> tuple[Served, ...]:
    """What the command line names, as it was promoted since; adapters `merged` or as they are. Raises ConfigError or
    CheckpointError."""
    if len(names) > len(specs):
        raise ConfigError(f"there are {len(names)} --name for {len(specs)} runs; give one for each, in the same order")
    before = read_state(state_file)
    found: list[Served] = []
    for number, spec in enumerate(specs):
        asked = parse_spec(spec)
        name = check_model_name(names[number] if number < len(names) else spec)
        if name in [other.name for other in found]:
            raise ConfigError(f"two models would be called '{name}'; give each a --name")
        checkpoint = find_checkpoint(asked, runs_dir, state_file.parent / "exports", merged=merged)
        served, told = resumed(Served(name, spec, checkpoint), before.get(name))
        found.append(served)
        if told is not None:
            notice(told)
    return tuple(found)


def check_address(host: str, port: int, keys: Keys) -> None:
    """Raises ConfigError for an address that others can reach, without keys, and for a port that is taken."""
    if not keys and host not in _LOOPBACK:
        raise ConfigError(
            f"--host {host} lets other machines in, and there are no API keys: make one with `rlft key NAME` and give its "
            "entry in --keys FILE or in RLFT_API_KEYS; without keys only 127.0.0.1 is served"
        )
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"--port {port} of {host} cannot be used ({error.strerror}); give another --port"
            ) from None


def check_memory(models: Sequence[Served], config: ServiceConfig, available_bytes: int) -> None:
    """Raises ResourceError when the engines of one machine without GPUs cannot fit into its memory."""
    if config.options.on_gpu:
        return
    groups = pools_of(models)
    for group in groups.values():
        weights, label = _weights(group), " and ".join(served.current.label for served in group)
        one = weights + (config.options.kv_cache_mb << 20 if group[0].current.kind == "policy" else weights)
        if one > available_bytes:
            raise ResourceError(
                f"{label} needs {one / 2**30:.1f} GiB in a replica (weights and cache), and this machine has "
                f"{available_bytes / 2**30:.1f} GiB available; lower --kv-cache-mb, or serve it where there is more memory"
            )
    least = sum(config.scaling.min_replicas * (_weights(group) + _ENGINE_BYTES) for group in groups.values())
    if least > available_bytes:
        raise ResourceError(
            f"{len(models)} models with {config.scaling.min_replicas} replicas need about {least / 2**30:.1f} GiB, and this "
            f"machine has {available_bytes / 2**30:.1f} GiB available; serve fewer models, or lower --replicas"
        )


def _weights(group: Sequence[Served]) -> int:
    """Bytes of the weights in an engine of these models: their base is there once."""
    folders = {served.current.base for served in group if served.current.base}
    folders |= {served.current.folder for served in group}
    return sum(num_weight_bytes(Path(folder)) for folder in folders)


def needs_of(config: ServiceConfig) -> Needs:
    """What the replicas ask of the cluster, each pool's canaries included."""
    gpus = float(config.options.tensor_parallel if config.options.on_gpu else 0)
    most, least = max(1, config.scaling.max_replicas) + 1, max(1, config.scaling.min_replicas)
    with_gpu = ((1.0, gpus),) * least
    return Needs((*with_gpu, *((1.0, 0.0),) * (most - least)) * len(pools_of(config.models)))


@contextmanager
def service(config: ServiceConfig, cluster: ClusterConfig, host: str, port: int) -> Iterator[str]:
    """A service that runs within the block; yields its URL. Raises ServiceError when it does not come up."""
    local = cluster.address == "local"
    with session(cluster, needs_of(config) if local else Needs(), model_bytes=0):
        on_gpu = num_gpus_here() > 0  # of the cluster: this machine may have none
        deploy(replace(config, options=replace(config.options, on_gpu=on_gpu)), host, port)
        try:
            yield f"http://{host}:{port}"
        finally:
            undeploy(config.patience.drain_s, alone=local)


def deploy(config: ServiceConfig, host: str, port: int) -> None:
    """Start the service on the cluster that this process has joined; returns when it answers."""
    for name in ("ray.serve", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)  # what it does is told by us
    serve.start(http_options={"host": host, "port": port}, proxy_location="HeadOnly")
    try:
        serve.run(application(config), name=APP, route_prefix="/")
    except RuntimeError as error:
        raise ServiceError(f"the service did not start: {_why()}") from error


def _why() -> str:
    """The last lines of what Serve says of the deployments that did not come up."""
    told = []
    for name, one in serve.status().applications[APP].deployments.items():
        lines = [line.strip() for line in one.message.splitlines() if line.strip()]
        if one.status not in ("HEALTHY", "RUNNING") and lines:
            told.append(f"{name}: {lines[-1]}")
    return "; ".join(told) or "its logs say why"


def undeploy(drain_s: float, *, alone: bool) -> int:
    """Let requests in work end, at most so long, and end the service; returns how many were cut off.

    `alone`: nobody else serves anything on this cluster, so what Serve itself runs ends too.
    """
    left = 0
    try:
        left = int(serve.get_app_handle(APP).drain.remote(drain_s).result(timeout_s=drain_s + 10.0))
    except (ray.exceptions.RayError, TimeoutError, serve.exceptions.RayServeException):
        left = -1
    if alone:
        serve.shutdown()
    else:
        serve.delete(APP)
    return left


def wait_for_signal() -> None:
    """Returns at SIGTERM or SIGINT."""
    asked = threading.Event()
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while not asked.wait(0.5):
            pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
