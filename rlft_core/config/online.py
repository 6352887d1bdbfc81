"""Stages that generate, score and update: the engines, the scorers and the loop are the same, the update differs."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from rlft_core.config.algorithms import (
    AdvantageConfig,
    ClipConfig,
    GaeConfig,
    KlConfig,
    ModelCriticConfig,
    PreferenceConfig,
    RlooConfig,
)
from rlft_core.config.base import Strict
from rlft_core.config.judge import ApiJudgeConfig, JudgeConfig
from rlft_core.config.rewards import RewardConfigs, RewardModelConfig
from rlft_core.config.rollout import RolloutConfig, SamplingConfig
from rlft_core.config.training import CheckpointConfig, LearnerConfig, OptimizerConfig
from rlft_core.config.watch import WatchConfig


class OnlineStage(Strict):
    """What such stages have in common."""

    type: str
    """Which update."""
    name: str
    """The stage's name and folder."""
    start_from: str | None = None
    """Stage whose model is the start and the reference, or `base`. Default: the training stage before."""
    num_steps: PositiveInt = 50
    """Times the cycle generate, score, update runs."""
    prompts_per_step: PositiveInt = 8
    """Prompts in one step, over all ranks."""
    samples_per_prompt: PositiveInt = 8
    """Completions of each prompt: the group."""
    max_lag: NonNegativeInt = 0
    """How many versions old the weights may be that a batch was sampled with. 0 is strictly on-policy."""
    sampling: SamplingConfig = SamplingConfig()
    """How completions are drawn."""
    rewards: RewardConfigs
    """What is rewarded; the task reward is their weighted sum."""
    max_skipped_samples: NonNegativeInt = 0
    """Samples whose reward may fail during the whole stage before it stops. A skipped sample is never scored 0."""
    num_scorers: PositiveInt = 1
    """Reward actors."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW and its schedule."""
    learner: LearnerConfig = LearnerConfig()
    """The learner's processes and memory."""
    rollout: RolloutConfig = RolloutConfig()
    """The rollout engines."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When to save."""
    watch: WatchConfig | None = None
    """Look at metrics that are not rewarded while the run goes."""
    log_samples_every: PositiveInt = 5
    """Write the samples of every n-th step to samples.jsonl."""

    @property
    def samples_per_step(self) -> int:
        """prompts_per_step x samples_per_prompt."""
        return self.prompts_per_step * self.samples_per_prompt

    @property
    def updates_per_step(self) -> int:
        """Optimiser steps of the policy in one step."""
        return 1

    @property
    def reward_models(self) -> tuple[RewardModelConfig, ...]:
        """The rewards that are models with actors of their own."""
        return tuple(reward for reward in self.rewards if isinstance(reward, RewardModelConfig))

    @property
    def judges(self) -> tuple[JudgeConfig, ...]:
        """The rewards that are language models here, which judge."""
        return tuple(reward for reward in self.rewards if isinstance(reward, JudgeConfig))

    @property
    def api_judges(self) -> tuple[ApiJudgeConfig, ...]:
        """The rewards that are judges behind a service."""
        return tuple(reward for reward in self.rewards if isinstance(reward, ApiJudgeConfig))

    @property
    def model_critic(self) -> ModelCriticConfig | None:
        """The critic's configuration when it has a transformer of its own."""
        return None

    @property
    def samples_start(self) -> bool:
        """Whether samples come from the frozen start and not from the policy."""
        return False

    def check_prompts_divide(self, minibatches: int = 1) -> None:
        """Raises ValueError when a step's prompts cannot be shared out."""
        parts = self.learner.num_ranks * minibatches
        if self.prompts_per_step % parts:
            times = f" x minibatches ({minibatches})" if minibatches > 1 else ""
            raise ValueError(
                f"prompts_per_step ({self.prompts_per_step}) does not divide by learner.num_ranks "
                f"({self.learner.num_ranks}){times}; make it a multiple of {parts}"
            )


class PpoStage(OnlineStage):
    """Generate, score, update: proximal policy optimisation against the rewards below."""

    type: Literal["ppo"] = "ppo"
    """The stage's type."""
    name: str = "ppo"
    """The stage's name and folder."""
    epochs: PositiveInt = 1
    """Passes over each step's samples."""
    minibatches: PositiveInt = 1
    """Optimiser steps in one pass."""
    advantage: AdvantageConfig = RlooConfig()
    """Which samples were better than expected."""
    kl: KlConfig = KlConfig()
    """The pull towards the start."""
    clip: ClipConfig = ClipConfig()
    """Trust region of the update."""
    entropy_coefficient: NonNegativeFloat = 0.0
    """Bonus for keeping the distribution wide."""

    @property
    def updates_per_step(self) -> int:
        """epochs x minibatches: optimiser steps of the policy in one step."""
        return self.epochs * self.minibatches

    @model_validator(mode="after")
    def _sizes_divide(self) -> PpoStage:
        self.check_prompts_divide(self.minibatches)
        if not isinstance(self.advantage, GaeConfig) and self.samples_per_prompt < 2:
            raise ValueError(
                f"samples_per_prompt is {self.samples_per_prompt}, but advantage.type '{self.advantage.type}' compares the "
                "samples of a group; use at least 2, or advantage.type 'gae'"
            )
        return self

    @property
    def model_critic(self) -> ModelCriticConfig | None:
        """The critic's configuration when it has a transformer of its own."""
        if isinstance(self.advantage, GaeConfig) and isinstance(self.advantage.critic, ModelCriticConfig):
            return self.advantage.critic
        return None


class OnlineDpoStage(OnlineStage):
    """On-policy preference optimisation: of each prompt's samples the best is preferred to the worst. With a judge as the
    only reward this is on-policy self-training (Lee et al. 2024, arXiv 2402.11253): the frozen start judges."""

    type: Literal["online_dpo"] = "online_dpo"
    """The stage's type."""
    name: str = "online_dpo"
    """The stage's name and folder."""
    samples_per_prompt: PositiveInt = 2
    """Completions of each prompt; one pair is made of them."""
    sample_from: Literal["policy", "start"] = "policy"
    """Who is sampled: the policy as it is at each step (on-policy), or the frozen start (off-policy), whose engines then judge
    too where the judge is the start."""
    rewards: RewardConfigs = (JudgeConfig(),)
    """Who says which sample is better: a judge, or the sum of any rewards. Prompts whose best and worst score the same are
    left out of the update, and counted."""
    preference: PreferenceConfig = PreferenceConfig()
    """How a pair becomes a loss."""
    optimizer: OptimizerConfig = OptimizerConfig(lr=5e-6, warmup_steps=10)
    """AdamW and its schedule."""

    @model_validator(mode="after")
    def _sizes_divide(self) -> OnlineDpoStage:
        self.check_prompts_divide()
        if self.samples_per_prompt < 2:
            raise ValueError("samples_per_prompt is 1, but a pair needs two samples; use at least 2")
        if self.sample_from == "start" and self.watch is not None:
            raise ValueError(
                "watch looks at what the engines hold, and with sample_from: start they hold the start; leave out one of the two"
            )
        return self

    @property
    def samples_start(self) -> bool:
        """Whether samples come from the frozen start and not from the policy."""
        return self.sample_from == "start"
