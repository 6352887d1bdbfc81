"""What every stage runner gets: the recipe, its rows, its folders, and who watches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray

from rlft_core.config.judge import JudgeConfig
from rlft_core.config.online import OnlineStage
from rlft_core.config.recipe import Recipe, TrainingStage
from rlft_core.config.rewards import RewardConfig, RewardModelConfig
from rlft_core.config.rollout import RolloutConfig
from rlft_core.config.stages import BASE, EvaluateStage, StageConfig, samples_first
from rlft_core.data import Splits
from rlft_core.errors import ResourceError
from rlft_core.models.default_model import resolve_model
from rlft_core.plan.stages import learner_uses_gpu, own_judges
from services.cluster.placement import environment, share_of_cores
from services.cluster.session import Needs, num_gpus_here
from services.control.desk import Desk
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
    desk: Desk

    def stage_folder(self, name: str) -> Path:
        """Folder of a stage."""
        return self.folder / "stages" / name

    def model_of(self, source: str) -> str:
        """Model folder of an earlier stage, or the base model."""
        return self.base_model if source == BASE else str(self.stage_folder(source) / "model")

    def with_models(
        self, stage: StageConfig | OnlineStage, rewards: Sequence[RewardConfig]
    ) -> tuple[RewardConfig, ...]:
        """Rewards in which every reward model names its folder, not the stage that trained it."""
        return tuple(self._with_model(stage, r) if isinstance(r, RewardModelConfig) else r for r in rewards)

    def judge_model(self, stage: OnlineStage, judge: JudgeConfig) -> str:
        """The folder or hub id of the model that judges."""
        source = self.recipe.judge_source(stage, judge)
        return self.model_of(source) if source is not None else str(resolve_model(judge.model))

    def _with_model(self, stage: StageConfig | OnlineStage, reward: RewardModelConfig) -> RewardModelConfig:
        source = self.recipe.reward_stage_of(stage, reward)
        folder = self.model_of(source) if source is not None else str((self.base_dir / str(reward.model)).absolute())
        return reward.model_copy(update={"stage": None, "model": folder})

    @property
    def notice(self) -> Callable[[str], None]:
        """Tell the person watching."""
        return self.observer.notice


def needs_of(recipe: Recipe, stage: StageConfig, *, gpus_there: int) -> Needs:
    """What a stage asks of the cluster. Raises ResourceError when it demands GPUs and the cluster has none."""
    learner = engines = scorers = Needs()
    if not isinstance(stage, EvaluateStage):
        rank = (stage.learner.cpus_per_rank, 1.0 if learner_uses_gpu(stage, gpus_there) else 0.0)
        learner = Needs((rank,) * stage.learner.num_ranks)
    if isinstance(stage, EvaluateStage | OnlineStage) or samples_first(stage):
        engines = engine_needs(stage.rollout, gpus_there=gpus_there)
    if isinstance(stage, OnlineStage):
        scorers = Needs(((1.0, 0.0),) * stage.num_scorers)
        for model in stage.reward_models:
            scorers += Needs(((model.cpus_per_actor, model.gpus_per_actor),) * model.num_actors)
        for judge in own_judges(recipe, stage):
            scorers += engine_needs(judge.rollout, gpus_there=gpus_there)
    if samples_first(stage):
        return learner.largest(engines)  # it samples before its learner starts
    return learner + engines + scorers


def engine_needs(rollout: RolloutConfig, *, gpus_there: int) -> Needs:
    """What the engines of one section ask of the cluster."""
    on_gpu = gpus_there or rollout.tensor_parallel > 1
    return Needs(((rollout.cpus_per_engine, float(rollout.tensor_parallel) if on_gpu else 0.0),) * rollout.num_engines)


def learner_placement(stage: TrainingStage, search_path: Path) -> Placement:
    """Processes of a learner in the cluster that was joined."""
    learner = stage.learner
    use_gpu = learner_uses_gpu(stage, num_gpus_here())
    if use_gpu and not ray.cluster_resources().get("GPU"):
        raise ResourceError("learner.device is 'cuda', but the cluster has no GPU; use 'auto' or 'cpu'")
    threads = share_of_cores(learner.num_ranks, learner.threads_per_rank)
    return Placement(use_gpu, environment(threads, search_path))
