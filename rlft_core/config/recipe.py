"""A whole recipe: model, data, cluster, trackers and the list of stages, checked against each other."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from rlft_core.config.base import Strict
from rlft_core.config.data import DataConfig
from rlft_core.config.judge import POLICY, START, JudgeConfig
from rlft_core.config.model import ModelConfig
from rlft_core.config.online import OnlineStage
from rlft_core.config.pairs import JudgeRowsConfig
from rlft_core.config.rewards import RewardModelConfig
from rlft_core.config.stages import BASE, DpoStage, EvaluateStage, RewardModelStage, SftStage, StageConfig

TrainingStage = SftStage | RewardModelStage | OnlineStage | DpoStage
PolicyStage = SftStage | OnlineStage | DpoStage


class ClusterConfig(Strict):
    """Which Ray cluster the run uses."""

    address: str = "local"
    """`local` starts one for this run and ends it with it; `auto` or `host:port` joins one that is there."""
    num_cpus: PositiveInt | None = None
    """CPUs that a local cluster pretends to have. Default: the machine's, and at least what the recipe asks."""
    object_store_mb: PositiveInt | None = None
    """Size of a local cluster's object store, in MiB. Default: four copies of the model and a margin."""
    wait_s: PositiveFloat = 60.0
    """How long to wait for resources that are not there yet, such as nodes that an autoscaler starts."""
    queue_s: PositiveFloat = 86400.0
    """How long to wait, on a cluster that is joined, for others to end who hold what is needed."""
    dashboard: bool = False
    """Start Ray's dashboard with a local cluster."""


class TrackingConfig(Strict):
    """Where metrics go besides metrics.jsonl and the terminal."""

    sinks: tuple[Literal["tensorboard", "mlflow", "wandb", "otel"], ...] = ()
    """Trackers to write to. `otel`: a trace of each step, to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names."""
    project: str = "rlft"
    """Project or experiment name in MLflow and W&B."""


class Recipe(Strict):
    """Everything a run needs to know. Values not given are the defaults below."""

    name: str = "run"
    """The run's name: it leaves its files in runs/<name>/."""
    seed: NonNegativeInt = 0
    """Decides row order, sampling and initial weights of new heads."""
    model: ModelConfig = ModelConfig()
    """The model to tune."""
    data: DataConfig
    """The rows."""
    cluster: ClusterConfig = ClusterConfig()
    """The Ray cluster."""
    tracking: TrackingConfig = TrackingConfig()
    """Trackers."""
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    """What to do, in order."""

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(f"name '{self.name}' must be letters, digits, '.', '_' and '-': it becomes a folder")
        seen: list[str] = []
        for index, stage in enumerate(self.stages):
            where = f"stages[{index}] ({stage.name})"
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", stage.name) or stage.name == BASE:
                raise ValueError(f"{where}: name must be letters, digits, '.', '_', '-' and not '{BASE}'")
            if stage.name in seen:
                raise ValueError(f"{where}: another stage has this name; give each a `name` of its own")
            self._check_sources(where, stage, seen)
            self._check_labels(where, stage, seen)
            self._check_lengths(where, stage)
            seen.append(stage.name)
        return self

    def _check_sources(self, where: str, stage: StageConfig, seen: list[str]) -> None:
        earlier = [self.stage(name) for name in seen]
        policies = [BASE, *(s.name for s in earlier if isinstance(s, PolicyStage))]
        sources = stage.systems.values() if isinstance(stage, EvaluateStage) else [stage.start_from or BASE]
        for source in sources:
            if source not in policies:
                raise ValueError(f"{where}: '{source}' is no earlier training stage; there are: {', '.join(policies)}")
        if isinstance(stage, EvaluateStage | OnlineStage):
            if isinstance(stage, OnlineStage):
                _check_policy_judges(where, stage)
            self._check_reward_models(where, stage, [s.name for s in earlier if isinstance(s, RewardModelStage)])
        if isinstance(stage, EvaluateStage):
            held_out = self.data.test if stage.split == "test" else self.data.validation
            if held_out is None:
                raise ValueError(f"{where}: needs data.{stage.split}; give a file or a number of rows to set aside")
        elif self.data.validation is None and (feature := _feature_that_validates(stage)):
            raise ValueError(f"{where}: {feature} needs data.validation; give a file or a number of rows to set aside")

    def _check_labels(self, where: str, stage: StageConfig, seen: list[str]) -> None:
        """summary.json and the report know a system by its label alone."""
        if not isinstance(stage, EvaluateStage):
            return
        earlier = {
            label: name
            for name in seen
            if isinstance(other := self.stage(name), EvaluateStage)
            for label in other.systems
        }
        twice = [label for label in stage.systems if label in earlier]
        if twice:
            raise ValueError(
                f"{where}: stage '{earlier[twice[0]]}' has a system '{twice[0]}' already; give this one another label, for "
                f"instance {twice[0]}_{stage.name}"
            )

    def _check_reward_models(self, where: str, stage: EvaluateStage | OnlineStage, known: list[str]) -> None:
        there = ", ".join(known) or "none"
        for reward in stage.reward_models:
            if reward.model is None and (not known if reward.stage is None else reward.stage not in known):
                raise ValueError(
                    f"{where}: reward '{reward.label}' needs an earlier stage of type reward_model; there are: {there}. "
                    "Add one before this stage, or give the reward a `model` folder"
                )
            source = None if reward.model is not None else reward.stage or known[-1]
            if source is not None:
                self._check_token_keys(where, reward, source)
        start = stage.model_critic.start_from if isinstance(stage, OnlineStage) and stage.model_critic else None
        if start is not None and start not in known:
            raise ValueError(
                f"{where}: advantage.critic.start_from '{start}' is no earlier stage of type reward_model; there are: {there}"
            )
        trained = self.stage(start) if start is not None else None
        if isinstance(trained, RewardModelStage) and trained.level == "token":
            raise ValueError(
                f"{where}: advantage.critic.start_from '{start}' rewards single tokens, which says nothing of what is still to "
                "come; take a stage with level: sequence, or leave start_from out"
            )

    def _check_token_keys(self, where: str, reward: RewardModelConfig, source: str) -> None:
        trained = self.stage(source)
        if isinstance(trained, RewardModelStage) and trained.level != "token":
            given = [
                key
                for key in ("smooth", "scale")
                if getattr(reward, key) != RewardModelConfig.model_fields[key].default
            ]
            if given:
                raise ValueError(
                    f"{where}: reward '{reward.label}': {given[0]} is for models that reward every token, and stage '{source}' "
                    "has level: sequence; leave it out, or set level: token there"
                )

    def _check_lengths(self, where: str, stage: StageConfig) -> None:
        budget = self.model.max_length
        if isinstance(stage, SftStage | RewardModelStage | DpoStage):
            completion = 1
        else:
            completion = stage.sampling.max_tokens if isinstance(stage, OnlineStage) else stage.max_tokens
        longest = self.data.max_prompt_tokens + completion
        if longest > budget:
            raise ValueError(
                f"{where}: data.max_prompt_tokens ({self.data.max_prompt_tokens}) plus {completion} new tokens is {longest}, "
                f"more than model.max_length ({budget}); raise model.max_length or lower one of the two"
            )
        if isinstance(stage, OnlineStage) and stage.max_lag and self.model.lora:
            raise ValueError(
                f"{where}: max_lag ({stage.max_lag}) needs weights that can be exchanged while tokens are sampled, which "
                "adapters cannot; set max_lag to 0 or leave out model.lora"
            )
        if not isinstance(stage, EvaluateStage):
            if stage.learner.max_row_tokens < budget:
                raise ValueError(
                    f"{where}: learner.max_row_tokens ({stage.learner.max_row_tokens}) is below model.max_length ({budget}): "
                    "one prompt with one completion would not fit; raise it"
                )
            frozen = stage.learner.freeze.embeddings or stage.learner.freeze.bottom_layers
            if frozen and self.model.lora and not isinstance(stage, RewardModelStage):
                raise ValueError(
                    f"{where}: learner.freeze has no effect with model.lora, which freezes all weights; leave it out, or set it "
                    "to {}"
                )

    def stage(self, name: str) -> StageConfig:
        """The stage called `name`."""
        return next(stage for stage in self.stages if stage.name == name)

    def start_of(self, stage: TrainingStage) -> str:
        """Name of the stage whose model `stage` starts from, or `base`."""
        if stage.start_from is not None:
            return stage.start_from
        earlier = self._before(stage)
        return next((s.name for s in reversed(earlier) if isinstance(s, PolicyStage)), BASE)

    def reward_stage_of(self, stage: StageConfig | OnlineStage, reward: RewardModelConfig) -> str | None:
        """Name of the stage that trains a reward model; None for a folder."""
        if reward.model is not None or reward.stage is not None:
            return reward.stage
        return next(s.name for s in reversed(self._before(stage)) if isinstance(s, RewardModelStage))

    def judge_source(self, stage: OnlineStage, judge: JudgeConfig) -> str | None:
        """Name of the stage whose model judges, or `base`; None for a folder or hub id."""
        if judge.model in (START, POLICY):
            return self.start_of(stage)
        names = [BASE, *(s.name for s in self._before(stage) if isinstance(s, PolicyStage))]
        return judge.model if judge.model in names else None

    def taught_to_judge(self, source: str) -> JudgeRowsConfig | None:
        """How the model of a stage learned to judge, there or in a stage that it comes from; None when it never did."""
        while source != BASE:
            stage = self.stage(source)
            if isinstance(stage, SftStage) and stage.judge is not None:
                return stage.judge
            assert not isinstance(stage, EvaluateStage)
            source = self.start_of(stage)
        return None

    def shares_engines(self, stage: OnlineStage, judge: JudgeConfig) -> bool:
        """Whether a judge is what the rollout engines hold: the policy, with or without its adapter, or the start."""
        if judge.model == POLICY:
            return True
        holds_start = self.model.lora is not None or stage.samples_start
        return holds_start and self.judge_source(stage, judge) == self.start_of(stage)

    def _before(self, stage: StageConfig | OnlineStage) -> tuple[StageConfig, ...]:
        return self.stages[: [other.name for other in self.stages].index(stage.name)]


def _check_policy_judges(where: str, stage: OnlineStage) -> None:
    """A policy that judges must be one policy while it does, and must be there. Raises ValueError."""
    judges = [judge.label for judge in stage.judges if judge.model == POLICY]
    if judges and (stage.max_lag or stage.samples_start):
        reason = "sample_from: start" if stage.samples_start else f"max_lag {stage.max_lag}"
        told = "no engine holds it" if stage.samples_start else "it would change while it judges"
        raise ValueError(
            f"{where}: judge '{judges[0]}' is the policy itself, and with {reason} {told}; take model: start"
        )


def _feature_that_validates(stage: TrainingStage) -> str | None:
    """What in a stage cannot do without validation rows."""
    if isinstance(stage, OnlineStage):
        return "watch" if stage.watch is not None else None
    if isinstance(stage, SftStage) and (stage.keep == "best" or stage.patience):
        return "keep: best" if stage.keep == "best" else "patience"
    return None
