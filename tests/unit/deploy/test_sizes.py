"""That the least size of each place is enough for what it runs: recipes ask for everything at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlft_core.config import load_recipe
from services.cluster.session import Needs
from services.pipeline.context import needs_of
from tests.unit.deploy.support import DEPLOY, ROOT, ray_cluster, render


def least(place: str, part: str) -> Needs:
    """CPUs and GPUs that are always there: Ray counts what a pod may use at most."""
    (manifest,) = [found for found in render(DEPLOY / "kuberay" / place / part) if found["kind"].startswith("Ray")]
    cpus = gpus = 0.0
    for group in ray_cluster(manifest)["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        cpus += group["minReplicas"] * float(limits["cpu"])
        gpus += group["minReplicas"] * float(limits.get("nvidia.com/gpu", 0))
    return Needs(((cpus, gpus),))


@pytest.mark.parametrize(
    "place, recipe, gpus", [("overlays/kind-cpu", "quickstart.yaml", 0), ("overlays/gpu", "ppo_8gpu.yaml", 8)]
)
@pytest.mark.parametrize("part", ["cluster", "job"])
def test_the_recipe_of_a_place_fits_without_a_further_node(place: str, part: str, recipe: str, gpus: int) -> None:
    loaded = load_recipe(ROOT / "recipes" / recipe, [])
    there = least(place, part)
    for stage in loaded.stages:
        asked = needs_of(loaded, stage, gpus_there=gpus)
        assert (asked.num_cpus <= there.num_cpus, asked.num_gpus <= there.num_gpus) == (True, True), (stage.name, asked)


def test_the_sizes_are_these() -> None:
    assert least("overlays/kind-cpu", "cluster") == Needs(((5.0, 0.0),))
    assert least("overlays/gpu", "cluster") == Needs(((72.0, 8.0),))
    assert Path(ROOT / "recipes" / "ppo_8gpu.yaml").is_file()
