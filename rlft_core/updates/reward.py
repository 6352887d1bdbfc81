"""One step of a reward model: references must score higher than their bad outputs.

A row's reference and its negatives share the prompt and are packed as a group. A text's score is read at its last
token; packing predicts a token from the position before it, so every text gets one more token to be "predicted", END.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from rlft_core.batching.packing import Sequences, number_tokens
from rlft_core.config.stages import RewardModelStage
from rlft_core.losses import binary_loss, bradley_terry_loss
from rlft_core.models.attention import DeviceRows
from rlft_core.models.compute import Compute
from rlft_core.models.reward_model import END, RewardModel
from rlft_core.updates.collective import Collective
from rlft_core.updates.optimizer import learning_rate, optimizer_step
from rlft_core.updates.passes import Work, collect, micro_batches


@dataclass(frozen=True, slots=True)
class TokenContrast:
    """Token ids of a prompt [P], of its reference [T] and of each negative [T_k]; `kinds` [K] names the negatives."""

    prompt: tuple[int, ...]
    positive: tuple[int, ...]
    negatives: tuple[tuple[int, ...], ...]
    kinds: tuple[str, ...]


@dataclass(slots=True)
class RewardState:
    """Everything a step reads and changes."""

    model: RewardModel
    optimizer: torch.optim.AdamW
    compute: Compute
    collective: Collective
    step: int = 0

    @property
    def module(self) -> RewardModel:
        """What is trained and saved first."""
        return self.model


@dataclass(frozen=True, slots=True)
class _Texts:
    """All C texts of some contrasts, each reference before its negatives.

    `ends` [C] are the numbers of their END tokens on the flat axis [T]; pair n is text `good[n]` against `bad[n]`.
    """

    sequences: list[Sequences]
    ends: Tensor
    good: Tensor
    bad: Tensor
    num_tokens: int


def reward_update(state: RewardState, contrasts: Sequence[TokenContrast], stage: RewardModelStage) -> dict[str, float]:
    """One optimiser step on this rank's contrasts; returns metrics of the whole step, the same on every rank.

    The loss is the sum over pairs divided by the number of pairs on all ranks.
    """
    texts = _texts_of(contrasts)
    num_pairs = int(state.collective.sum(torch.tensor([len(texts.good)]))[0])
    number_of = torch.full((texts.num_tokens,), -1, dtype=torch.int64)
    number_of[texts.ends] = torch.arange(len(texts.ends))
    works = list(micro_batches(texts.sequences, state.compute, state.collective))
    # A group too long for a micro-batch is split, and its pairs with it: then all scores must be known beforehand.
    known = _scores(state, texts) if _any_split(works, texts, number_of, state.collective) else None
    scores = torch.zeros(len(texts.ends)) if known is None else known
    with state.compute.autocast():
        for work in works:
            values = state.model(work.rows)
            numbers = number_of[work.rows.tokens.cpu()]
            mine = values[(numbers >= 0).to(values.device)]
            here = numbers[numbers >= 0]
            if known is None:
                scores[here] = mine.detach().float().cpu()
            pull = _gradient(scores, texts, stage)[here].to(mine.device)
            scale = state.collective.num_ranks / max(1, num_pairs) if work.real else 0.0
            ((mine * pull).sum() * scale).backward()  # type: ignore[no-untyped-call]
    lr = learning_rate(state.step, num_steps=stage.num_steps, config=stage.optimizer)
    norm = optimizer_step(state.optimizer, lr=lr, max_grad_norm=stage.optimizer.max_grad_norm)
    state.step += 1
    gaps = (scores[texts.good] - scores[texts.bad]).double()
    sums = torch.stack([_losses(scores, texts, stage).sum(), (gaps > 0).double().sum(), gaps.sum()])
    loss, right, gap = (state.collective.sum(sums) / max(1, num_pairs)).tolist()
    return {
        "loss/mean": loss,
        "pairs/accuracy": right,
        "pairs/gap": gap,
        "pairs/count": float(num_pairs),
        "policy/grad_norm": norm,
        "policy/lr": lr,
    }


def score_contrasts(state: RewardState, contrasts: Sequence[TokenContrast]) -> list[list[float]]:
    """Rewards of every contrast's texts, the reference first. Every rank gets all; each computes its part."""
    sizes = [1 + len(contrast.negatives) for contrast in contrasts]
    starts = [0, *accumulate(sizes)]
    rank, num_ranks = state.collective.rank, state.collective.num_ranks
    part = range(rank, len(contrasts), num_ranks)
    found = _scores(state, _texts_of([contrasts[index] for index in part]))
    whole = torch.zeros(starts[-1])
    places = [number for index in part for number in range(starts[index], starts[index + 1])]
    whole[torch.tensor(places, dtype=torch.int64)] = found
    whole = state.collective.sum(whole)
    return [whole[start : start + size].tolist() for start, size in zip(starts, sizes, strict=False)]


def _texts_of(contrasts: Sequence[TokenContrast]) -> _Texts:
    groups = [(c.prompt, [[*text, END] for text in (c.positive, *c.negatives)]) for c in contrasts]
    lengths = [len(text) for _, texts in groups for text in texts]
    good: list[int] = []
    bad: list[int] = []
    first = 0
    for contrast in contrasts:
        good += [first] * len(contrast.negatives)
        bad += range(first + 1, first + 1 + len(contrast.negatives))
        first += 1 + len(contrast.negatives)
    return _Texts(
        number_tokens(groups),
        torch.tensor(list(accumulate(lengths)), dtype=torch.int64) - 1,
        torch.tensor(good, dtype=torch.int64),
        torch.tensor(bad, dtype=torch.int64),
        sum(lengths),
    )


def _scores(state: RewardState, texts: _Texts) -> Tensor:
    """[C] float32 rewards, without gradient. A collective."""

    def forward(rows: DeviceRows) -> tuple[Tensor, ...]:
        return (state.model(rows),)

    return collect(forward, texts.sequences, texts.num_tokens, state.compute, state.collective)[0][texts.ends]


def _any_split(works: Sequence[Work], texts: _Texts, number_of: Tensor, collective: Collective) -> bool:
    """Does any pair, on any rank, have its two texts in different micro-batches?"""
    place = torch.full((len(texts.ends),), -1, dtype=torch.int64)
    for index, work in enumerate(works):
        numbers = number_of[work.rows.tokens.cpu()]
        place[numbers[numbers >= 0]] = index
    split = bool((place[texts.good] != place[texts.bad]).any())
    return bool(collective.max(torch.tensor([int(split)]))[0])


def _losses(scores: Tensor, texts: _Texts, stage: RewardModelStage) -> Tensor:
    """[N] loss of each pair, float64."""
    good, bad = scores.double()[texts.good], scores.double()[texts.bad]
    return bradley_terry_loss(good, bad, stage.margin) if stage.loss == "bradley_terry" else binary_loss(good, bad)


def _gradient(scores: Tensor, texts: _Texts, stage: RewardModelStage) -> Tensor:
    """[C] derivative of the summed loss by each score. A score that is not known yet touches its own pairs only."""
    leaf = scores.detach().clone().requires_grad_(True)
    with torch.autocast("cpu", enabled=False):
        (found,) = torch.autograd.grad(_losses(leaf, texts, stage).sum(), leaf)
    return found.float()
