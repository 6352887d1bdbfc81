"""A reward model that scores texts as they come. Computes in a thread, so that the replica can answer meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
import torch

from rlft_core.config.rewards import RewardModelConfig
from rlft_core.data.encode import encode_prompt, encode_target
from rlft_core.data.template import placeholders
from rlft_core.errors import DataError
from rlft_core.rewards.protocol import RewardValue, Sample, TokenRewards
from rlft_core.rewards.reward_model import RewardModelReward
from rlft_core.serving.types import Checkpoint
from rlft_core.types import Row
from services.scoring.passes import Passes
from services.serving.relay import Scored
from services.serving.settings import EngineOptions


class RewardScorer:
    """One reward model. A text is scored as if it had ended; of a model of tokens the score is the mean over its tokens."""

    def __init__(self, checkpoint: Checkpoint, options: EngineOptions) -> None:
        torch.set_num_threads(options.num_threads)
        config = RewardModelConfig(
            name=checkpoint.label, model=checkpoint.folder, clip=None, gpus_per_actor=1.0 if options.on_gpu else 0.0
        )
        self._reward = RewardModelReward.from_config(config)
        self._label = checkpoint.label
        self._max_length = options.max_length or checkpoint.max_length
        names = placeholders(self._reward.facts.template)
        # However its prompts name what they ask about, it is the question.
        self._fields = [name.removeprefix("column.") for name in names if name not in ("input", "output")]
        self._ids = count()
        self._passes: Passes[Sample, RewardValue] = Passes(self._reward)

    async def score(self, question: str, answers: Sequence[str]) -> Scored:
        """What the model thinks of some answers to one question. Raises DataError when one is too long for it."""
        row = Row(str(next(self._ids)), question, "", dict.fromkeys(self._fields, question))
        nothing = np.zeros(0, np.int32)
        num_tokens = self._count(row, answers)
        samples = [Sample(row, text, nothing, "stop") for text in answers]
        found = await self._passes(samples)
        return Scored(tuple(map(_number, found.values)), num_tokens, self._label)

    def _count(self, row: Row, answers: Sequence[str]) -> int:
        """Tokens that are read: the question once, and every answer."""
        facts, tokenizer = self._reward.facts, self._reward.tokenizer
        prompt = len(encode_prompt(tokenizer, row, system=facts.system, template=facts.template, chat=facts.chat))
        sizes = [len(encode_target(tokenizer, text)) for text in answers]
        longest = prompt + max(sizes, default=0)
        if longest > self._max_length:
            raise DataError(
                f"the question and its longest answer have {longest} tokens, and this model reads {self._max_length}"
            )
        return prompt + sum(sizes)


def _number(value: RewardValue) -> float:
    """Of a model of tokens, the mean over them."""
    assert not isinstance(value, tuple)
    return value.value if isinstance(value, TokenRewards) else value
