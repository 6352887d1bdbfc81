"""A trained reward model as a reward, on a CPU or a GPU.

Texts are written as they were for its training, with its own tokenizer: a policy with another tokenizer can be scored,
unless every token is to get a reward of its own. Samples of one row share their prompt's computation, and rows go
through the model together up to a token budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rlft_core.batching.packing import number_tokens
from rlft_core.config.rewards import RewardModelConfig
from rlft_core.data.encode import encode_prompt, encode_target
from rlft_core.errors import ConfigError, ResourceError
from rlft_core.models.attention import attention_kind, to_device
from rlft_core.models.compute import Compute, quick_dtype
from rlft_core.models.loading import load_tokenizer, round_matrices
from rlft_core.models.packable import why_not_packable
from rlft_core.models.reward_model import END, RewardFacts, RewardModel, load_classifier
from rlft_core.rewards.protocol import Sample, TokenRewards
from rlft_core.rewards.spans import UNFINISHED
from rlft_core.types import Row


@dataclass(frozen=True, slots=True)
class RewardModelReward:
    """The normalised score of prompt and text, or of every token, cut to the recipe's bounds."""

    config: RewardModelConfig
    model: RewardModel
    tokenizer: PreTrainedTokenizerBase
    facts: RewardFacts
    compute: Compute

    @classmethod
    def from_config(cls, config: RewardModelConfig) -> RewardModelReward:
        """Load the folder that `config.model` names. Raises ModelError, ConfigError or ResourceError."""
        if config.model is None:
            raise ConfigError(
                f"reward '{config.label}': its stage has no model yet; run the stage first, or give `model`"
            )
        if config.gpus_per_actor and not torch.cuda.is_available():
            raise ResourceError(
                f"reward '{config.label}': gpus_per_actor is {config.gpus_per_actor:g}, but this process sees no GPU; set it to 0"
            )
        device = torch.device("cuda" if config.gpus_per_actor else "cpu")
        attention = attention_kind(device)
        facts = RewardFacts.read(config.model)
        if facts.level == "sequence" and (config.smooth or config.scale != "token"):
            raise ConfigError(
                f"reward '{config.label}': smooth and scale are for models that reward every token, and {config.model} "
                "rewards whole texts; leave them out"
            )
        classifier = load_classifier(config.model, attention=attention)
        classifier.requires_grad_(False)
        model = RewardModel(classifier.to(device), mean=facts.mean, std=facts.std, squash=facts.squash)
        packing = why_not_packable(model, attention=attention, max_row_tokens=config.max_batch_tokens) is None
        # Weights that were saved in half precision are numbers of half precision: nothing is lost by rounding.
        half = bool((model.head.weight.bfloat16() == model.head.weight).all())
        dtype = quick_dtype(device) if half else torch.float32
        if dtype != torch.float32:
            round_matrices(model.backbone, dtype)
        compute = Compute(device, dtype, attention, packing, config.max_batch_tokens, config.max_batch_tokens)
        tokenizer = load_tokenizer(config.model)
        return cls(config, model, tokenizer, facts, compute)

    @property
    def name(self) -> str:
        return self.config.label

    @torch.inference_mode()
    def __call__(self, samples: Sequence[Sample]) -> Sequence[float] | Sequence[TokenRewards]:
        by_prompt = self._by_prompt(samples)
        order = [index for members in by_prompt.values() for index in members]
        texts = [self._text(samples[index]) for index in order]
        given = iter(texts)
        groups = [(list(prompt), [[*next(given), END] for _ in members]) for prompt, members in by_prompt.items()]
        stops = list(accumulate(len(text) + 1 for text in texts))
        values = self._values(groups, stops[-1] if stops else 0).numpy()
        # The entry before the first token comes first: see `rlft_core.updates.reward_texts`.
        found = {
            index: values[stop - len(text) - 1 : stop] for index, text, stop in zip(order, texts, stops, strict=True)
        }
        if self.facts.level == "token":
            return [self._tokens(samples[index], found[index][1:]) for index in range(len(samples))]
        return [float(self._bounded(found[index][-1])) for index in range(len(samples))]

    def _values(self, groups: Sequence[tuple[list[int], list[list[int]]]], num_tokens: int) -> torch.Tensor:
        """[T] rewards at every position of the texts."""
        found = torch.zeros(num_tokens)
        with self.compute.autocast():
            for micro in self.compute.rows(number_tokens(groups)):
                rows = to_device(micro, self.compute.device, self.compute.attention)
                found[rows.tokens.cpu()] = self.model(rows).float().cpu()
        return found

    def _by_prompt(self, samples: Sequence[Sample]) -> dict[tuple[int, ...], list[int]]:
        """Places of the samples by their prompt's tokens: equal prompts are computed once, whatever their rows are called."""
        prompts: dict[int, tuple[int, ...]] = {}
        found: dict[tuple[int, ...], list[int]] = {}
        for index, sample in enumerate(samples):
            row = id(sample.row)  # a group's samples have one row between them: its prompt is encoded once
            if row not in prompts:
                prompts[row] = tuple(self._prompt(sample.row))
            found.setdefault(prompts[row], []).append(index)
        return found

    def _prompt(self, row: Row) -> list[int]:
        facts = self.facts
        return encode_prompt(self.tokenizer, row, system=facts.system, template=facts.template, chat=facts.chat)

    def _text(self, sample: Sample) -> list[int]:
        """The text's tokens, with the EOS only when it ended; at token level the policy's own, if they say the text."""
        if self.facts.level == "token" and self._says(sample):
            return list(sample.token_ids.tolist())
        ids = encode_target(self.tokenizer, sample.text)
        return ids if sample.finish_reason == "stop" else ids[:-1]

    def _says(self, sample: Sample) -> bool:
        """Whether the sample's tokens are its text in this model's tokenizer, but for half a character at its end."""
        ids = sample.token_ids.tolist()
        said = self.tokenizer.decode(ids, skip_special_tokens=True)
        return bool(ids) and said.rstrip(UNFINISHED) == sample.text.rstrip(UNFINISHED)

    def _tokens(self, sample: Sample, values: np.ndarray) -> TokenRewards:
        """[T] the model's values -> what each token earns."""
        earned = self._bounded(smoothed(values.astype(np.float64), self.config.smooth))
        mean = float(earned.mean()) if len(earned) else 0.0
        if self.config.scale == "text":
            earned = steps_of_mean(earned)
        return TokenRewards(mean, earned.astype(np.float32) if self._says(sample) else None)

    def _bounded(self, values: np.ndarray) -> np.ndarray:
        clip = self.config.clip
        return values if clip is None else np.clip(values, -clip, clip)


def smoothed(values: np.ndarray, reach: int) -> np.ndarray:
    """[T] mean over each value and up to `reach` neighbours on either side, fewer at the ends."""
    if not reach or not len(values):
        return values
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    averaged: np.ndarray = (sums[high] - sums[low]) / (high - low)
    return averaged


def steps_of_mean(values: np.ndarray) -> np.ndarray:
    """[T] by how much each value moves the mean of those so far, which starts at 0: they sum to the mean of all.

    What is still to come after t then is the mean of all less the mean up to t, so a text earns by ending only what ending
    does to its mean. Shares `values / T` sum to the same, but pay out the past in parts that depend on where the text ends:
    where tokens cost, ending at once costs least. (Potential-based shaping: Ng, Harada and Russell 1999, theorem 1, with
    the mean so far as potential.)
    """
    means = np.cumsum(values) / np.arange(1, len(values) + 1)
    return np.diff(means, prepend=0.0)
