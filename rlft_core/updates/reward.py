"""One step of a reward model: good texts must score higher than their bad counterparts, as texts or token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlft_core.config.stages import RewardModelStage
from rlft_core.models.attention import DeviceRows
from rlft_core.models.compute import Compute
from rlft_core.models.reward_model import RewardModel
from rlft_core.updates.collective import Collective
from rlft_core.updates.optimizer import learning_rate, optimizer_step
from rlft_core.updates.passes import Work, collect, micro_batches
from rlft_core.updates.reward_objective import pair_losses, text_scores, token_rewards
from rlft_core.updates.reward_texts import Texts, TokenContrast, texts_of


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


def reward_update(state: RewardState, contrasts: Sequence[TokenContrast], stage: RewardModelStage) -> dict[str, float]:
    """One optimiser step on this rank's contrasts; returns metrics of the whole step, the same on every rank.

    The loss is the sum over pairs divided by the number of pairs on all ranks.
    """
    texts = texts_of(contrasts)
    num_pairs = int(state.collective.sum(torch.tensor([len(texts.good)]))[0])
    works = list(micro_batches(texts.sequences, state.compute, state.collective))
    # A group too long for a micro-batch is split, and its pairs with it: then all values must be known beforehand.
    split = _any_split(works, texts, state.collective)
    values = _values(state, texts) if split else torch.zeros(texts.num_tokens)
    with state.compute.autocast():
        for work in works:
            found = state.model(work.rows)
            here = work.rows.tokens.cpu()
            if not split:
                values[here] = found.detach().float().cpu()
            pull = _gradient(values, texts, stage)[here].to(found.device)
            scale = state.collective.num_ranks / max(1, num_pairs) if work.real else 0.0
            ((found * pull).sum() * scale).backward()  # type: ignore[no-untyped-call]
    lr = learning_rate(state.step, num_steps=stage.num_steps, config=stage.optimizer)
    norm = optimizer_step(state.optimizer, lr=lr, max_grad_norm=stage.optimizer.max_grad_norm)
    state.step += 1
    scores = text_scores(values, texts, stage)
    gaps = scores[texts.good] - scores[texts.bad]
    sums = torch.stack([pair_losses(values, texts, stage).sum(), (gaps > 0).double().sum(), gaps.sum()])
    loss, right, gap = (state.collective.sum(sums) / max(1, num_pairs)).tolist()
    return {
        "loss/mean": loss,
        "pairs/accuracy": right,
        "pairs/gap": gap,
        "pairs/count": float(num_pairs),
        "policy/grad_norm": norm,
        "policy/lr": lr,
    }


def token_entries(state: RewardState, contrasts: Sequence[TokenContrast]) -> list[list[np.ndarray]]:
    """[1 + T] float32 values of every contrast's texts, the better text first, as the model gives them: the one before
    the text's first token, and then those of its tokens.

    Every rank gets all; each computes its part.
    """
    whole = texts_of(contrasts)
    rank, num_ranks = state.collective.rank, state.collective.num_ranks
    part = range(rank, len(contrasts), num_ranks)
    mine = texts_of([contrasts[index] for index in part])
    found = torch.zeros(whole.num_tokens)
    sizes = [sum(len(text) for text in sequences.completions) for sequences in whole.sequences]
    places = [whole.sequences[index].first_token + k for index in part for k in range(sizes[index])]
    found[torch.tensor(places, dtype=torch.int64)] = _values(state, mine)
    found = state.collective.sum(found)
    spans = zip(whole.starts.tolist(), whole.ends.tolist(), strict=True)
    by_text = iter([found[start : end + 1].numpy() for start, end in spans])
    return [[next(by_text) for _ in range(1 + len(contrast.negatives))] for contrast in contrasts]


def score_contrasts(
    state: RewardState, contrasts: Sequence[TokenContrast], stage: RewardModelStage
) -> list[list[float]]:
    """Scores of every contrast's texts, the better one first, on every rank."""
    return [[text_score(entries[1:], stage) for entries in texts] for texts in token_entries(state, contrasts)]


def text_score(values: np.ndarray, stage: RewardModelStage) -> float:
    """The score of one text from the values [T] of its tokens: as `text_scores`, without a gradient."""
    if stage.level == "sequence":
        return float(values[-1])
    return float(token_rewards(torch.from_numpy(values).double(), stage).mean())


def _values(state: RewardState, texts: Texts) -> Tensor:
    """[T] float32 values of all entries, without gradient. A collective."""

    def forward(rows: DeviceRows) -> tuple[Tensor, ...]:
        return (state.model(rows),)

    found = collect(forward, texts.sequences, texts.num_tokens, state.compute, state.collective)
    return found[0] if found else torch.zeros(0)


def _any_split(works: Sequence[Work], texts: Texts, collective: Collective) -> bool:
    """Does any pair, on any rank, have its two texts in different micro-batches?"""
    place = torch.full((texts.num_tokens,), -1, dtype=torch.int64)
    for index, work in enumerate(works):
        place[work.rows.tokens.cpu()] = index
    at = place[texts.ends]
    split = bool((at[texts.good] != at[texts.bad]).any())
    return bool(collective.max(torch.tensor([int(split)]))[0])


def _gradient(values: Tensor, texts: Texts, stage: RewardModelStage) -> Tensor:
    """[T] derivative of the summed loss by each value. A value that is not known yet touches its own pairs only."""
    leaf = values.detach().clone().requires_grad_(True)
    with torch.autocast("cpu", enabled=False):
        (found,) = torch.autograd.grad(pair_losses(leaf, texts, stage).sum(), leaf)
    return found.float()
