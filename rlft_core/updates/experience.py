"""From scored groups to the flat tensors of one update.

    S samples in G groups, T completion tokens in all; token axis [T] in the order of groups, then samples, then tokens

A sample whose reward was skipped takes no part: it is neither packed nor counted, and its group is one smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlft_core.batching.packing import Sequences, number_tokens
from rlft_core.masking import Tally, tally
from rlft_core.types import Completion, Score, ScoredGroup


@dataclass(frozen=True, slots=True)
class Experience:
    """`sequences` [G]; `lengths` [S] and `group_sizes` [G] int64; `rewards`, `engine_logprobs` [T] float32;
    `versions` [T] int64; `group_tokens` [G] int64, tokens of each group; `num_skipped` samples left out."""

    sequences: tuple[Sequences, ...]
    lengths: Tensor
    group_sizes: Tensor
    group_tokens: Tensor
    rewards: Tensor
    engine_logprobs: Tensor
    versions: Tensor
    num_skipped: int

    @property
    def num_tokens(self) -> int:
        return len(self.rewards)

    def sum_by_sample(self, values: Tensor) -> Tensor:
        """[T] -> [S]: sums over each sample's tokens."""
        owner = torch.repeat_interleave(torch.arange(len(self.lengths)), self.lengths)
        return torch.zeros(len(self.lengths), dtype=values.dtype).index_add_(0, owner, values)


def flatten(groups: Sequence[ScoredGroup]) -> Experience:
    """The experience in scored groups. A group without any scored sample is left out."""
    kept = [[(c, s) for c, s in zip(g.group.completions, g.scores, strict=True) if s.skipped is None] for g in groups]
    used = [(group, pairs) for group, pairs in zip(groups, kept, strict=True) if pairs]
    sequences = number_tokens(
        [(g.group.prompt.token_ids, [c.token_ids.tolist() for c, _ in pairs]) for g, pairs in used]
    )
    samples: list[tuple[Completion, Score]] = [pair for _, pairs in used for pair in pairs]
    return Experience(
        sequences=tuple(sequences),
        lengths=torch.tensor([c.num_tokens for c, _ in samples], dtype=torch.int64),
        group_sizes=torch.tensor([len(pairs) for _, pairs in used], dtype=torch.int64),
        group_tokens=torch.tensor([sum(c.num_tokens for c, _ in pairs) for _, pairs in used], dtype=torch.int64),
        rewards=_concatenated([s.per_token for _, s in samples], np.float32),
        engine_logprobs=_concatenated([c.logprobs for c, _ in samples], np.float32),
        versions=_concatenated([c.versions for c, _ in samples], np.int64),
        num_skipped=sum(s.skipped is not None for g in groups for s in g.scores),
    )


def select(experience: Experience, chosen: Sequence[int]) -> tuple[Sequences, ...]:
    """The groups of a minibatch; their token numbers stay those of the whole step."""
    return tuple(experience.sequences[index] for index in chosen)


def sample_tallies(groups: Sequence[ScoredGroup], *, step: int) -> dict[str, Tally]:
    """Metrics over samples: rewards with their breakdown, lengths, endings, lag in versions."""
    scored = [(c, s) for g in groups for c, s in zip(g.group.completions, g.scores, strict=True) if s.skipped is None]
    values: dict[str, list[float]] = {
        "reward/mean": [s.total for _, s in scored],
        "tokens/completion_mean": [float(c.num_tokens) for c, _ in scored],
        "tokens/ended_by_eos": [float(c.finish_reason == "stop") for c, _ in scored],
        "policy/lag": [float(step - c.versions.min()) for c, _ in scored],
    }
    for _, score in scored:
        for name, value in score.breakdown.items():
            values.setdefault(f"reward/{name}", []).append(value)
    spreads = [
        np.std([s.total for s in g.scores if s.skipped is None])
        for g in groups
        if any(s.skipped is None for s in g.scores)
    ]
    values["reward/std_in_group"] = [float(spread) for spread in spreads]
    return {name: tally(torch.tensor(numbers, dtype=torch.float64)) for name, numbers in values.items()}


def _concatenated(arrays: Sequence[np.ndarray], dtype: type) -> Tensor:
    return torch.from_numpy(np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype))
