"""Room for a stage on a cluster that others use too: wait for one's turn and until all is free at once, and say why one waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from rlft_core.config.recipe import ClusterConfig
from rlft_core.errors import ResourceError
from services.cluster.gate import Place, gate_of_cluster
from services.cluster.session import Needs

_LOOK_EVERY_S = 1.0
_ANSWER_S = 30.0


@dataclass(slots=True)
class Turn:
    """A run's standing on the cluster while one of its stages works. `beat` keeps it, and passes the turn on once `placed`."""

    run: str
    gate: ray.actor.ActorHandle

    def beat(self, *, placed: bool) -> None:
        """Say that the run is alive. Does not wait for an answer: if the gate is gone, nobody is waiting at it."""
        (self.gate.settle if placed else self.gate.ask).remote(self.run)


@contextmanager
def room_for(
    run: str, needs: Needs, cluster: ClusterConfig, *, say: Callable[[str], None], tick: Callable[[], None]
) -> Iterator[Turn]:
    """Wait until everything that a stage needs is free at once, and hold the turn to place it.

    `say` is told why it waits, once for each reason; `tick` is called every second. Raises ResourceError when the cluster
    has less than that even when empty (`cluster.wait_s`), or others do not end in time (`cluster.queue_s`).
    """
    gate = gate_of_cluster()
    wanted: PlacementGroup | None = None
    started, told = time.monotonic(), ""
    try:
        while True:
            place = _asked(gate, run)
            if place.turn and wanted is None and needs.bundles:
                # Pending, it is also what tells an autoscaler which nodes are wanted.
                wanted = placement_group([bundle_of(*bundle) for bundle in needs.bundles], strategy="PACK")
            if place.turn and (wanted is None or wanted.wait(_LOOK_EVERY_S)):
                break
            waited = time.monotonic() - started
            lacking = what_lacks(needs, [node["Resources"] for node in ray.nodes() if node["Alive"]])
            if lacking and waited > cluster.wait_s:
                raise ResourceError(
                    f"{lacking}, and had not more after {cluster.wait_s:g} s (cluster.wait_s). {_WAY_OUT}"
                )
            reason = lacking or why(needs, place, ray.available_resources())
            if waited > cluster.queue_s:
                raise ResourceError(f"after {cluster.queue_s:g} s (cluster.queue_s) there still was no room: {reason}")
            if reason != told and waited > _LOOK_EVERY_S:
                say(f"waiting: {reason}")
                told = reason
            tick()
            time.sleep(_LOOK_EVERY_S)
        if told:
            say(f"there is room, after {time.monotonic() - started:.0f} s")
        if wanted is not None:
            remove_placement_group(wanted)  # what is placed next takes its room; nobody else is let in meanwhile
            wanted = None
        yield Turn(run, gate)
    finally:
        if wanted is not None:
            remove_placement_group(wanted)
        gate.leave.remote(run)


_WAY_OUT = "Lower learner.num_ranks, rollout.num_engines or rollout.tensor_parallel, or add nodes"


def bundle_of(num_cpus: float, num_gpus: float) -> dict[str, float]:
    """Resources of one actor as Ray wants them; one that needs nothing asks for a crumb."""
    found = {name: amount for name, amount in (("CPU", num_cpus), ("GPU", num_gpus)) if amount}
    return found or {"CPU": 0.001}


def what_lacks(needs: Needs, nodes: Sequence[dict[str, float]]) -> str:
    """Why the stage could not run even if the cluster were empty; empty when it could."""
    cpus, gpus = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    if cpus + 1e-6 < needs.num_cpus or gpus + 1e-6 < needs.num_gpus:
        return (
            f"the recipe asks for {needs.num_cpus:g} CPUs and {needs.num_gpus:g} GPUs at once, but the cluster has "
            f"{cpus:g} CPUs and {gpus:g} GPUs"
        )
    for one_cpus, one_gpus in needs.bundles:
        if not any(node.get("CPU", 0.0) >= one_cpus and node.get("GPU", 0.0) >= one_gpus for node in nodes):
            return (
                f"one actor of the recipe needs {one_cpus:g} CPUs and {one_gpus:g} GPUs on one node, but no node of the cluster "
                "has so many"
            )
    return ""


def why(needs: Needs, place: Place, free: dict[str, float]) -> str:
    """What a run waits for that could run if others were not there."""
    others = f"; at work: {', '.join(place.at_work)}" if place.at_work else ""
    if place.ahead:
        return f"{', '.join(place.ahead)} came first and is placed before it{others}"
    return (
        f"it needs {needs.num_cpus:g} CPUs and {needs.num_gpus:g} GPUs at once, and {free.get('CPU', 0.0):g} CPUs and "
        f"{free.get('GPU', 0.0):g} GPUs are free{others}"
    )


def _asked(gate: ray.actor.ActorHandle, run: str) -> Place:
    """The gate's answer. While it is being restarted it has forgotten the queue, and everybody asks again."""
    for _ in range(3):
        try:
            found: Place = ray.get(gate.ask.remote(run), timeout=_ANSWER_S)
            return found
        except RayActorError:
            time.sleep(_LOOK_EVERY_S)
    raise ResourceError("the cluster's gate does not answer: its node may be gone; start the run again")
