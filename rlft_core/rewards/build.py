"""From a recipe's rewards to callables. Loads models and imports users' functions; `check.py` only looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlft_core.config.rewards import (
    BertScoreConfig,
    CustomConfig,
    EmbeddingSimilarityConfig,
    EndsProperlyConfig,
    ExactMatchConfig,
    FormatConfig,
    LengthConfig,
    LengthPenaltyConfig,
    RegexConfig,
    RepetitionConfig,
    RewardConfig,
    RewardModelConfig,
    RougeConfig,
    RulesConfig,
)
from rlft_core.rewards.bertscore import BertScoreReward
from rlft_core.rewards.custom import CustomReward
from rlft_core.rewards.embedding import EmbeddingSimilarityReward
from rlft_core.rewards.length import LengthPenaltyReward, LengthReward
from rlft_core.rewards.protocol import Reward, WeightedReward
from rlft_core.rewards.reward_model import RewardModelReward
from rlft_core.rewards.rules import RulesReward
from rlft_core.rewards.spans import SpanReward
from rlft_core.rewards.text import (
    EndsProperlyReward,
    ExactMatchReward,
    RegexReward,
    RepetitionReward,
    RougeReward,
)

REWARDS: Mapping[type[RewardConfig], Callable[[Any], Reward]] = {
    LengthConfig: LengthReward,
    RegexConfig: RegexReward,
    RulesConfig: RulesReward.from_rules,
    FormatConfig: RulesReward.from_format,
    EndsProperlyConfig: EndsProperlyReward,
    RepetitionConfig: RepetitionReward,
    EmbeddingSimilarityConfig: EmbeddingSimilarityReward.from_config,
    ExactMatchConfig: ExactMatchReward,
    RougeConfig: RougeReward,
    LengthPenaltyConfig: LengthPenaltyReward,
    BertScoreConfig: BertScoreReward.from_config,
    RewardModelConfig: RewardModelReward.from_config,
    CustomConfig: CustomReward.from_config,
}
"""A new reward is a configuration class, a reward class and a line here."""


def build_rewards(configs: Sequence[RewardConfig], *, tokenizer: Any = None) -> tuple[WeightedReward, ...]:
    """The rewards of a recipe, ready to score, in its order. `tokenizer`: the policy's, for rewards of places in a text.

    Raises:
        ConfigError: a user's function cannot be imported or called.
        ModelError: an embedding model cannot be loaded.
    """
    return tuple(WeightedReward(_built(config, tokenizer), config.weight) for config in configs)


def _built(config: RewardConfig, tokenizer: Any) -> Reward:
    if isinstance(config, CustomConfig) and config.spans:
        return SpanReward.from_config(config, tokenizer)
    return REWARDS[type(config)](config)


def is_span_reward(config: RewardConfig) -> bool:
    """Whether a reward is one of places in the text, which needs the policy's tokenizer."""
    return isinstance(config, CustomConfig) and config.spans
