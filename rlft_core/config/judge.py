"""A judge as a reward: a language model that compares what was sampled."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from rlft_core.config.rewarding import Rewarding
from rlft_core.config.rollout import RolloutConfig

START = "start"
"""The name of the model that a stage starts from, where a judge is wanted."""


class JudgeConfig(Rewarding):
    """A language model that judges. With a template that compares: how often a sample wins against the others of its prompt,
    in [0, 1], or whether it wins against the row's output, both orders always. With a template that grades: the expected
    grade, in [0, 1]. It runs on engines of its own, or on the rollout engines."""

    type: Literal["judge"] = "judge"
    """Which reward this is."""
    model: str = Field(default=START, min_length=1)
    """`start`: the frozen model that the stage starts from. Or an earlier stage, `base`, a model folder or a hub id. With
    model.lora, `start` judges on the rollout engines, their adapter off: no further copy of the model."""
    template: str = "better-answer"
    """One of rlft's templates by name (better-answer, faithful-summary, helpful-harmless, instruction-following compare;
    grade-answer grades), or a file of your own."""
    principles: tuple[str, ...] | None = None
    """Principles of the template to judge by. Default: all."""
    against: Literal["group", "reference"] = "group"
    """`group`: the other samples of the prompt. `reference`: the row's output."""
    all_pairs: PositiveInt = 4
    """Groups up to this size are compared all with all."""
    rounds: PositiveInt = 3
    """Larger ones meet in so many rounds of a Swiss tournament, size / 2 comparisons each."""
    rollout: RolloutConfig = RolloutConfig()
    """Engines of its own, where it needs them."""

    @property
    def needs_reference(self) -> bool:
        return self.against == "reference"
