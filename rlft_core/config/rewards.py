"""What a reward is made of: one class for each `type`, joined in the union `RewardConfig`.

Only says what is wanted; the computing is in `rlft_core.rewards`. Whatever can be known before a process starts is
checked here, except users' own functions, which `rlft_core.rewards.check` imports. Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from rlft_core.config.checks import (
    Check,
    JsonCheck,
    MaxCharsCheck,
    NoFinalPeriodCheck,
    NoLeadingArticleCheck,
    NotStartingWithCheck,
    OneLineCheck,
    Pattern,
    Words,
    distinct_labels,
)
from rlft_core.config.judge import ApiJudgeConfig, JudgeConfig
from rlft_core.config.rewarding import Rewarding

REWARD_FACTS = "rlft_reward.json"
"""What stands beside a reward model's weights: how texts are put to it, and its normalisation."""
RESERVED_REWARD_NAMES = frozenset({"total"})


class LengthConfig(Rewarding):
    """1 for a length within [min, max], falling in a straight line to 0 at `tolerance` beyond."""

    type: Literal["length"] = "length"
    """Which reward this is."""
    unit: Literal["words", "characters", "tokens"] = "words"
    """What is counted. Tokens include the final EOS."""
    min: NonNegativeInt = 0
    """Shortest length with full reward."""
    max: PositiveInt | None = None
    """Longest length with full reward; none means any."""
    tolerance: NonNegativeInt = 0
    """Units beyond [min, max] over which the reward falls to 0. 0 falls at once."""

    @model_validator(mode="after")
    def _range(self) -> LengthConfig:
        if self.max is None and self.min == 0:
            raise ValueError("length needs `min`, `max` or both: without them every text has reward 1")
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max ({self.max}) is below min ({self.min})")
        return self


class RegexConfig(Rewarding):
    """1 when a regular expression is found (or is not found) anywhere in the text, else 0."""

    type: Literal["regex"] = "regex"
    """Which reward this is."""
    pattern: Pattern
    """Python regular expression; `(?i)` in front ignores case."""
    mode: Literal["must_match", "must_not_match"] = "must_match"
    """Whether finding it earns the reward or loses it."""


class RulesConfig(Rewarding):
    """The share of named checks that the text passes, with a bonus for passing all of them."""

    type: Literal["rules"] = "rules"
    """Which reward this is."""
    checks: Annotated[tuple[Check, ...], AfterValidator(distinct_labels)]
    """What is checked. The breakdown shows each check by name, `share` and `all`."""
    all_bonus: float = Field(default=0.0, ge=0.0, le=1.0)
    """b in reward = (1 - b) * share passed + b * (1 if all passed else 0)."""

    @property
    def fields_needed(self) -> frozenset[str]:
        return frozenset().union(*(check.fields_needed for check in self.checks))


class FormatConfig(Rewarding):
    """The common checks of form, written short. `rules` has more checks and gives them names."""

    type: Literal["format"] = "format"
    """Which reward this is."""
    one_line: bool = False
    """Not empty and no line break."""
    max_chars: PositiveInt | None = None
    """Most characters."""
    no_final_period: bool = False
    """Does not end in a full stop."""
    no_leading_article: bool = False
    """Does not begin with a, an, the or this."""
    not_starting_with: Words | None = None
    """Beginnings that are not allowed (any case)."""
    json_value: Literal["any", "object"] | None = None
    """The whole text is valid JSON, or a JSON object."""
    mode: Literal["share", "all"] = "share"
    """The share of checks passed, or 1 only when all are."""

    @model_validator(mode="after")
    def _not_empty(self) -> FormatConfig:
        if not self.checks:
            raise ValueError("format checks nothing: switch on at least one check, for instance `one_line: true`")
        return self

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks that are switched on, in the order of the fields above."""
        checks: list[Check] = []
        if self.one_line:
            checks.append(OneLineCheck())
        if self.max_chars is not None:
            checks.append(MaxCharsCheck(value=self.max_chars))
        if self.no_final_period:
            checks.append(NoFinalPeriodCheck())
        if self.no_leading_article:
            checks.append(NoLeadingArticleCheck())
        if self.not_starting_with is not None:
            checks.append(NotStartingWithCheck(values=self.not_starting_with))
        if self.json_value is not None:
            checks.append(JsonCheck(object=self.json_value == "object"))
        return tuple(checks)


class EndsProperlyConfig(Rewarding):
    """1 when the model ended by itself (EOS), 0 when it was cut off at the token limit."""

    type: Literal["ends_properly"] = "ends_properly"
    """Which reward this is."""


class RepetitionConfig(Rewarding):
    """A penalty: 0 for a text that repeats nothing, down to -1. Its weight is therefore positive."""

    type: Literal["repetition"] = "repetition"
    """Which reward this is."""
    weight: FiniteFloat = Field(default=1.0, ge=0.0)
    """Factor in the sum. The value itself is negative, so a positive weight punishes repetition."""
    ngram: PositiveInt = 2
    """Words in one n-gram: penalty = share of n-grams seen before + share of long words seen before, at most 1."""
    long_word_chars: NonNegativeInt = 4
    """Words of at least so many characters are long; 0 leaves long words out."""


class EmbeddingSimilarityConfig(Rewarding):
    """Cosine between the sentence embeddings of the text and of the reference or the input, in [-1, 1]."""

    type: Literal["embedding_similarity"] = "embedding_similarity"
    """Which reward this is."""
    against: Literal["reference", "input"] = "reference"
    """What the text is compared with: the row's output or its input."""
    model: str = Field(default="default", min_length=1)
    """`default` (all-MiniLM-L6-v2, from its package), a model folder or a hub id; mean-pooled and normalised."""
    max_tokens: PositiveInt = 256
    """Longer texts are cut here before embedding."""

    @property
    def needs_reference(self) -> bool:
        return self.against == "reference"


class ExactMatchConfig(Rewarding):
    """1 when the text equals the reference after normalisation, else 0."""

    type: Literal["exact_match"] = "exact_match"
    """Which reward this is."""
    ignore_case: bool = True
    """Compare without case."""
    ignore_punctuation: bool = True
    """Compare without punctuation."""
    ignore_articles: bool = False
    """Compare without a, an, the."""

    @property
    def needs_reference(self) -> bool:
        return True


class RougeConfig(Rewarding):
    """ROUGE F1 against the reference (Lin 2004), in [0, 1]."""

    type: Literal["rouge"] = "rouge"
    """Which reward this is."""
    variant: Literal["rouge1", "rouge2", "rougeL"] = "rougeL"
    """Single words, pairs of words, or longest common subsequence."""

    @property
    def needs_reference(self) -> bool:
        return True


class LengthPenaltyConfig(Rewarding):
    """A penalty for outputs longer or shorter than wanted: 0 at best, without a lower bound unless `cap` sets one.

    With d = max(0, |length - wanted| - tolerance): `linear` -d / scale, `quadratic` -(d / scale)^2; `count` is
    -length / scale and knows no wanted length."""

    type: Literal["length_penalty"] = "length_penalty"
    """Which reward this is."""
    weight: FiniteFloat = Field(default=1.0, ge=0.0)
    """Factor in the sum. The value itself is negative, so a positive weight punishes."""
    form: Literal["linear", "quadratic", "count"] = "linear"
    """Shape of the penalty."""
    unit: Literal["words", "characters", "tokens"] = "words"
    """What is counted. `tokens` are the policy's, the final EOS included, and need a `target`."""
    target: PositiveInt | None = None
    """Wanted length. Default: that of the row's output."""
    tolerance: NonNegativeInt = 2
    """Units of difference that cost nothing."""
    scale: PositiveFloat = 5.0
    """Units of difference that cost 1."""
    cap: PositiveFloat | None = None
    """The penalty is never more than this."""

    @property
    def needs_reference(self) -> bool:
        return self.form != "count" and self.target is None

    @model_validator(mode="after")
    def _countable(self) -> LengthPenaltyConfig:
        if self.unit == "tokens" and self.needs_reference:
            raise ValueError("unit: tokens needs a `target`: how many tokens the row's output has depends on the model")
        return self


class BertScoreConfig(Rewarding):
    """BERTScore F1 against the reference (Zhang et al. 2020): greedy matching of token embeddings, without rescaling."""

    type: Literal["bertscore"] = "bertscore"
    """Which reward this is."""
    model: str = Field(default="default", min_length=1)
    """Encoder: `default` (all-MiniLM-L6-v2, from its package), a model folder or a hub id."""
    layer: PositiveInt | None = None
    """Hidden layer whose states are compared, from 1. Default: the last."""
    max_tokens: PositiveInt = 256
    """Longer texts are cut here."""

    @property
    def needs_reference(self) -> bool:
        return True


class RewardModelConfig(Rewarding):
    """A reward model: trained by an earlier stage of the recipe, or a folder. It gets actors of its own."""

    type: Literal["reward_model"] = "reward_model"
    """Which reward this is."""
    stage: str | None = None
    """The reward-model stage. Default: the latest one before, unless `model` is given."""
    model: str | None = None
    """A reward model's folder instead."""
    clip: PositiveFloat | None = None
    """Values are cut to [-clip, clip]; those of a token-level model token by token."""
    smooth: NonNegativeInt = 0
    """Token-level models: a token earns the mean over itself and so many neighbours on either side."""
    scale: Literal["token", "text"] = "token"
    """Token-level models: `text` gives every token what it adds to the mean of the tokens so far, and these sum to the text's
    score; `token` gives it its own reward, so that long texts earn, or lose, more."""
    num_actors: PositiveInt = 1
    """Actors that hold a copy of the model and share the groups."""
    cpus_per_actor: NonNegativeFloat = 1.0
    """CPUs reserved for one actor."""
    gpus_per_actor: NonNegativeFloat = 0.0
    """GPUs reserved for one actor; a fraction shares a GPU with others, 0 computes on CPUs."""
    max_batch_tokens: PositiveInt = 4096
    """Tokens that go through the model together."""

    @model_validator(mode="after")
    def _one_source(self) -> RewardModelConfig:
        if self.stage is not None and self.model is not None:
            raise ValueError("give `stage` or `model`, not both")
        return self


class CustomConfig(Rewarding):
    """Your own function.

    `f(sample, **params)` returns a number, or a pair (number, {"detail": number}). `sample` has `row` (id, input,
    output, fields), `text`, `token_ids` and `finish_reason`. With `batched`, `f(samples, **params)` gets a tuple of
    samples and returns one such value for each.
    """

    type: Literal["custom"] = "custom"
    """Which reward this is."""
    function: str = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")
    """Where it is: `module:attribute`, for instance `my_rewards:politeness`."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of every call."""
    batched: bool = False
    """The function takes all samples of a group at once."""
    spans: bool = False
    """The function says what places of the text earn: a list of (start, end, value), characters from 0. A value is shared
    by the tokens that the place touches; the sum of all values is the sample's reward."""
    fields: tuple[str, ...] = ()
    """Columns of the row that the function reads; a data set without them is refused before the run starts."""

    @property
    def fields_needed(self) -> frozenset[str]:
        return frozenset(self.fields)

    @model_validator(mode="after")
    def _one_at_a_time(self) -> CustomConfig:
        if self.batched and self.spans:
            raise ValueError("spans are asked for one sample at a time; leave `batched` out")
        return self


RewardConfig = Annotated[
    LengthConfig
    | RegexConfig
    | RulesConfig
    | FormatConfig
    | EndsProperlyConfig
    | RepetitionConfig
    | EmbeddingSimilarityConfig
    | ExactMatchConfig
    | RougeConfig
    | LengthPenaltyConfig
    | BertScoreConfig
    | RewardModelConfig
    | JudgeConfig
    | ApiJudgeConfig
    | CustomConfig,
    Field(discriminator="type"),
]


ServedConfig = RewardModelConfig | JudgeConfig | ApiJudgeConfig
"""Rewards that come from actors of their own, not from the reward actor."""


def distinct_rewards(rewards: tuple[RewardConfig, ...]) -> tuple[RewardConfig, ...]:
    """The rewards themselves, when there is one, their names differ and none is reserved. ValueError otherwise."""
    if not rewards:
        raise ValueError("needs at least one reward, for instance {type: ends_properly}")
    seen: set[str] = set()
    for reward in rewards:
        label = reward.label
        if label in RESERVED_REWARD_NAMES:
            raise ValueError(f"a reward may not be called {label!r}: the sum of all rewards has that name")
        if label in seen:
            raise ValueError(f"two rewards are called {label!r}: give one of them another `name`")
        seen.add(label)
    return rewards


RewardConfigs = Annotated[tuple[RewardConfig, ...], AfterValidator(distinct_rewards)]
"""A recipe's list of rewards: at least one, with different names."""
