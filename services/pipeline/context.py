"""What every stage runner gets: the recipe, its rows, its folders, and who watches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ray

from rlft_core.config.recipe import Recipe, TrainingStage
from rlft_core.config.stages import BASE, EvaluateStage, PpoStage, StageConfig
from rlft_core.data import Splits
from rlft_core.errors import ResourceError
from rlft_core.plan.stages import learner_uses_gpu
from services.cluster.placement import environment, share_of_cores
from services.cluster.session import Needs, num_gpus_here
from services.learner.learner import Placement
from services.observe.observer import Observer


@dataclass(frozen=True, slots=True)
class RunContext:
    """One run. `base_model` is a folder or hub id; `folder` is runs/<name>; stages live in folder/stages/<name>."""

    recipe: Recipe
    folder: Path
    base_dir: Path
    base_model: str
    splits: Splits
    fingerprints: dict[str, str]
    observer: Observer

    def stage_folder(self, name: str) -> Path:
        """Folder of a stage."""
        return self.folder / "stages" / name

    def model_of(self, source: str) -> str:
        """Model folder of an earlier stage, or the base model."""
        return self.base_model if source == BASE else str(self.stage_folder(source) / "model")

    @property
    def notice(self) -> Callable[[str], None]:
        """Tell the person watching."""
        return self.observer.terminal.warn


def needs_of(stage: StageConfig, *, gpus_there: int) -> Needs:
    """What a stage asks of the cluster. Raises ResourceError when it demands GPUs and the cluster has none."""
    cpus, gpus = 0.0, 0
    if not isinstance(stage, EvaluateStage):
        cpus += stage.learner.num_ranks * stage.learner.cpus_per_rank
        gpus += stage.learner.num_ranks if learner_uses_gpu(stage, gpus_there) else 0
    if isinstance(stage, EvaluateStage | PpoStage):
        cpus += stage.rollout.num_engines * stage.rollout.cpus_per_engine
        gpus += (
            stage.rollout.num_engines * stage.rollout.tensor_parallel
            if gpus_there or stage.rollout.tensor_parallel > 1
            else 0
        )
    if isinstance(stage, PpoStage):
        cpus += stage.num_scorers
    return Needs(cpus, gpus)


def learner_placement(stage: TrainingStage, search_path: Path) -> Placement:
    """Processes of a learner in the cluster that was joined."""
    learner = stage.learner
    use_gpu = learner_uses_gpu(stage, num_gpus_here())
    if use_gpu and not ray.cluster_resources().get("GPU"):
        raise ResourceError("learner.device is 'cuda', but the cluster has no GPU; use 'auto' or 'cpu'")
    threads = share_of_cores(learner.num_ranks, learner.threads_per_rank)
    return Placement(use_gpu, environment(threads, search_path))
