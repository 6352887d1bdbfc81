"""Judges as rewards: language models that compare or grade what was sampled, on engines here or behind a service."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from rlft_core.config.rewarding import Rewarding
from rlft_core.config.rollout import RolloutConfig

START = "start"
"""The name of the model that a stage starts from, where a judge is wanted."""
POLICY = "policy"
"""The name of the policy as it is at each step."""


class JudgingConfig(Rewarding):
    """What is asked, whoever answers. With a template that compares: how often a sample wins against the others of its prompt,
    in [0, 1], or whether it wins against the row's output, both orders always. With one that grades: the expected grade, in
    [0, 1]."""

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

    @property
    def needs_reference(self) -> bool:
        return self.against == "reference"


class JudgeConfig(JudgingConfig):
    """A language model that judges, on engines of its own or on the rollout engines."""

    type: Literal["judge"] = "judge"
    """Which reward this is."""
    model: str = Field(default=START, min_length=1)
    """`start`: the frozen model that the stage starts from. `policy`: the policy as it is at each step, on its engines. Or an
    earlier stage, `base`, a model folder or a hub id. With model.lora, `start` judges on the rollout engines too, their
    adapter off: no further copy of the model."""
    rollout: RolloutConfig = RolloutConfig()
    """Engines of its own, where it needs them."""


class ApiJudgeConfig(JudgingConfig):
    """A judge behind any endpoint that speaks OpenAI's chat completions. Answers are kept on disk and never bought twice. While
    it is down, scoring waits; when it does not come back, the run fails with its name."""

    type: Literal["api_judge"] = "api_judge"
    """Which reward this is."""
    url: str = Field(pattern=r"^https?://\S+$")
    """Base address, such as http://judge.example:8000/v1."""
    model: str = Field(min_length=1)
    """The model's name there."""
    key_env: str | None = None
    """Environment variable that holds the key. Default: no key."""
    max_concurrent: PositiveInt = 16
    """Requests at once."""
    deadline_s: PositiveFloat = 60.0
    """Longest wait for one reply."""
    patience_s: PositiveFloat = 300.0
    """How long a request is tried again, with growing pauses, before the run fails."""
    logprobs: bool = True
    """Ask for the log-probs of the reply's first token. Off for services that refuse; a reply then is a label and no more."""
    max_chars: PositiveInt = 100_000
    """Longest prompt; the task is cut first, from its end."""
    cache: str | None = None
    """SQLite file with earlier replies. Default: judge-cache.sqlite in the run's folder."""
    price_in: NonNegativeFloat = 0.0
    """Price of a million prompt tokens, for the metric `cost`."""
    price_out: NonNegativeFloat = 0.0
    """Price of a million reply tokens."""
