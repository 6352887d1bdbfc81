"""A Ray cluster for a run: one started for it, or one that is there; and what it must offer.

A local cluster counts CPUs logically, so a recipe may ask for more actors than there are cores; GPUs are never invented.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray
import torch

from rlft_core.config.recipe import ClusterConfig
from rlft_core.errors import ResourceError
from services.cores import whole_cores

_MIB = 1 << 20
_START_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Needs:
    """What one stage asks of the cluster at once. `bundles`: CPUs and GPUs of each actor."""

    bundles: tuple[tuple[float, float], ...] = ()

    @property
    def num_cpus(self) -> float:
        """Of all together."""
        return sum(cpus for cpus, _ in self.bundles)

    @property
    def num_gpus(self) -> float:
        """Of all together."""
        return sum(gpus for _, gpus in self.bundles)

    def __add__(self, other: Needs) -> Needs:
        return Needs(self.bundles + other.bundles)

    def largest(self, other: Needs) -> Needs:
        """Enough for either, one after the other."""
        more, less = sorted((self, other), key=lambda needs: (needs.num_gpus, needs.num_cpus), reverse=True)
        missing = max(0.0, less.num_cpus - more.num_cpus)
        return Needs((*more.bundles, (missing, 0.0))) if missing else more


@contextmanager
def session(cluster: ClusterConfig, needs: Needs, *, model_bytes: int) -> Iterator[None]:
    """Start or join the cluster; leave or end it afterwards. Raises ResourceError when one that was started offers too little."""
    # Both are read when Ray Train is first used: quick to notice a dead rank, and no card is hidden from CPU actors.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Ray gives its workers a low priority; beside anything else that computes they would hardly move.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # A run starts about ten small actors at once; more than Ray expects of a machine with few cores.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "16")
    # Of a dead engine's answers nobody may be waiting any more; what its death means is told by the fleet.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    if cluster.address == "local":
        # Nobody takes this machine away from us, and the watcher is one more process to start for every learner.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        _start_local(cluster, needs, model_bytes)
        _protect_token()
    else:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        if cluster.address == "local":
            wait_for(needs, cluster.wait_s)  # of one that is joined, room is waited for stage by stage (room.py)
        yield
    finally:
        ray.shutdown()


def _start_local(cluster: ClusterConfig, needs: Needs, model_bytes: int) -> None:
    """Start Ray on this machine. Its own patience is 15 s for one process and 30 s for all: on a busy machine, too little."""
    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            ray.init(
                address="local",
                num_cpus=cluster.num_cpus or max(whole_cores(), int(needs.num_cpus + 0.999)),
                object_store_memory=_store_bytes(cluster, model_bytes),
                include_dashboard=cluster.dashboard,
                dashboard_port=_free_port(),
                log_to_driver=False,
                logging_level="ERROR",
            )
            return
        except Exception as error:
            ray.shutdown()
            if attempt == _START_ATTEMPTS:
                raise ResourceError(
                    f"Ray could not start on this machine, {attempt} times: {error} It happens when other programs keep "
                    "all cores busy; wait for them, or join a cluster that is running (cluster.address)"
                ) from error


def wait_for(needs: Needs, seconds: float) -> None:
    """Wait until the cluster has what is asked. Raises ResourceError naming both numbers."""
    deadline = time.monotonic() + seconds
    while True:
        there = ray.cluster_resources()
        cpus, gpus = there.get("CPU", 0.0), there.get("GPU", 0.0)
        if cpus >= needs.num_cpus and gpus >= needs.num_gpus:
            return
        if time.monotonic() >= deadline:
            raise ResourceError(
                f"the recipe asks for {needs.num_cpus:g} CPUs and {needs.num_gpus:g} GPUs at once, but after waiting "
                f"{seconds:g} s (cluster.wait_s) the cluster has {cpus:g} CPUs and {gpus:g} GPUs. Lower "
                "learner.num_ranks, rollout.num_engines or rollout.tensor_parallel, or add nodes"
            )
        time.sleep(0.5)


def num_gpus_here() -> int:
    """GPUs of the cluster that this process has joined; none when what is installed cannot use them."""
    if torch.version.cuda is None:
        return 0
    return int(ray.cluster_resources().get("GPU", 0))


def logs_folder() -> str:
    """Where the processes of this cluster write their logs, as a person may want to read them."""
    return str(Path(ray._private.worker._global_node.get_logs_dir_path())) if ray.is_initialized() else "(no cluster)"


def _store_bytes(cluster: ClusterConfig, model_bytes: int) -> int:
    if cluster.object_store_mb is not None:
        return cluster.object_store_mb * _MIB
    wanted = 4 * model_bytes + 512 * _MIB
    shared = Path("/dev/shm")
    room = os.statvfs(shared).f_bavail * os.statvfs(shared).f_frsize if shared.is_dir() else wanted
    return int(min(wanted, max(256 * _MIB, 0.6 * room)))


def _free_port() -> int:
    # Even without its dashboard Ray records an address; two clusters must not share the default one.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _protect_token() -> None:
    """Ray writes its token readable for all; it is a password."""
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file() and token.stat().st_uid == os.getuid():
        token.chmod(0o600)
