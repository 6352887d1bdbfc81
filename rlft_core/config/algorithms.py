"""The choices inside a policy update: advantage, KL penalty, clipping, critic."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from rlft_core.config.base import Strict
from rlft_core.config.training import OptimizerConfig


class HeadCriticConfig(Strict):
    """A linear value head on the frozen reference's hidden states, solved in closed form.

    The features never change, so the head is fitted by regularised least squares over all tokens seen so far.
    It costs no extra forward pass and has no learning rate."""

    type: Literal["head"] = "head"
    ridge: tuple[PositiveFloat, ...] = Field(default=(1.0, 10.0, 100.0, 1000.0, 10000.0, 1000000.0), min_length=1)
    """Strengths of the regularisation to choose from, in units of one token with features of variance 1. The one that
    predicted best so far is used; the largest is little more than the mean return."""
    memory: float = Field(default=0.98, gt=0.0, le=1.0)
    """Weight of the past at each step: 1 keeps everything, .9 forgets within some ten steps."""


class ModelCriticConfig(Strict):
    """A critic with a transformer of its own."""

    type: Literal["model"] = "model"
    start_from: str | None = None
    """Reward-model stage that the critic starts as, its score included. Default: the model that the stage starts from."""
    optimizer: OptimizerConfig = OptimizerConfig(lr=1e-5)
    """The critic's own optimiser."""
    epochs: PositiveInt = 1
    """Passes over each step's samples."""
    clip: PositiveFloat | None = 0.2
    """Change of a value beyond this earns nothing more (clipped value loss); null switches it off."""
    warmup_steps: NonNegativeInt = 0
    """First steps in which only the critic learns."""


CriticConfig = Annotated[HeadCriticConfig | ModelCriticConfig, Field(discriminator="type")]


class GaeConfig(Strict):
    """Generalised advantage estimation with a critic (Schulman et al. 2016)."""

    type: Literal["gae"] = "gae"
    gamma: float = Field(default=1.0, gt=0.0, le=1.0)
    """Discount per token."""
    lam: float = Field(default=0.95, ge=0.0, le=1.0)
    """Bias against variance: 0 trusts the critic alone, 1 the sampled return alone."""
    whiten: bool = True
    """Scale advantages to mean 0 and variance 1 over the global batch."""
    critic: CriticConfig = HeadCriticConfig()
    """What predicts the return."""


class RlooConfig(Strict):
    """Leave-one-out baseline: a sample against the mean of the others in its group (Ahmadian et al. 2024)."""

    type: Literal["rloo"] = "rloo"
    whiten: bool = True
    """Divide by the standard deviation over the global batch."""


class GrpoConfig(Strict):
    """Group-relative advantage: a sample against its group's mean (Shao et al. 2024)."""

    type: Literal["grpo"] = "grpo"
    normalize_std: bool = True
    """Divide by the group's standard deviation; off gives Dr. GRPO (Liu et al. 2025)."""


class ReinforcePlusPlusConfig(Strict):
    """REINFORCE++ with baseline: minus the group's mean, whitened over the global batch (Hu 2025)."""

    type: Literal["reinforce_pp"] = "reinforce_pp"


AdvantageConfig = Annotated[GaeConfig | RlooConfig | GrpoConfig | ReinforcePlusPlusConfig, Field(discriminator="type")]


class AdaptiveKlConfig(Strict):
    """Moves the coefficient so that the observed KL stays near a target (Ziegler et al. 2019)."""

    target: PositiveFloat = 6.0
    """Wanted KL per completion, in nats."""
    horizon: PositiveFloat = 10000.0
    """Samples over which the coefficient may change by its own size."""


class KlConfig(Strict):
    """The pull towards the model that the stage started from."""

    coefficient: NonNegativeFloat = 0.02
    """Weight of the penalty; 0 switches the reference off."""
    place: Literal["reward", "loss"] = "reward"
    """Subtract it from each token's reward, or add it to the loss."""
    estimator: Literal["k1", "k2", "k3"] = "k1"
    """How KL is estimated from sampled tokens."""
    adaptive: AdaptiveKlConfig | None = None
    """Let the coefficient follow the observed KL."""


class ClipConfig(Strict):
    """How far one update may move a token's probability ratio (Schulman et al. 2017)."""

    low: float = Field(default=0.2, gt=0.0, lt=1.0)
    """The ratio earns nothing below 1 - low."""
    high: PositiveFloat = 0.2
    """The ratio earns nothing above 1 + high."""
    dual: float | None = Field(default=None, gt=1.0)
    """For negative advantages the loss is at most `dual` times the advantage (Ye et al. 2020)."""
    importance_cap: PositiveFloat = 2.0
    """Cap of the truncated importance weight between learner and engine log-probs."""


class PreferenceConfig(Strict):
    """How a pair of a preferred and another text becomes a loss, of log-ratios between policy and start."""

    loss: Literal["dpo", "ipo", "hinge"] = "dpo"
    """`dpo` (Rafailov et al. 2023), `ipo` (Azar et al. 2023) or `hinge` (Zhao et al. 2023)."""
    beta: PositiveFloat = 0.1
    """The pull towards the start: small values let the policy go further."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=0.5)
    """`dpo`: the share of pairs that are expected to be the wrong way round."""

    @model_validator(mode="after")
    def _smooths_what_is_a_likelihood(self) -> PreferenceConfig:
        if self.label_smoothing and self.loss != "dpo":
            raise ValueError(f"label_smoothing is for loss: dpo; leave it out with {self.loss}")
        return self
