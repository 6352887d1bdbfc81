"""What a reward model is trained for, as a function of the scores of all tokens of a step.

    values [T] ──text_scores──▶ [C]        values [T] ──pair_losses──▶ [N]

Everything is float64 and differentiable by `values`; which of them a loss reads is decided by the stage's level and loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from rlft_core.config.stages import RewardModelStage
from rlft_core.losses import binary_loss, bradley_terry_loss
from rlft_core.updates.reward_texts import Texts, Touched


def token_rewards(values: Tensor, stage: RewardModelStage) -> Tensor:
    """[T] -> [T] what a token earns: its value, or with hard labels 2 p - 1 for p = sigma(value)."""
    return torch.tanh(values / 2.0) if stage.squashes else values


def text_scores(values: Tensor, texts: Texts, stage: RewardModelStage) -> Tensor:
    """[C] a text's score: at its last token, or for token rewards their mean (Xu et al. 2024, arXiv 2406.02756)."""
    values = values.double()
    if stage.level == "sequence":
        return values[texts.ends]
    counted = texts.owner >= 0
    sums = torch.zeros(len(texts.ends), dtype=torch.float64)
    sums = sums.index_add(0, texts.owner[counted], token_rewards(values, stage)[counted])
    return sums / texts.lengths


def pair_losses(values: Tensor, texts: Texts, stage: RewardModelStage) -> Tensor:
    """[N] the loss of each pair.

    `bradley_terry`, `binary`: of the texts' scores. `edited`: Bradley-Terry of the mean value of the tokens that the
    edit touched on either side, 0 where it touched none. `labels`: cross-entropy of every token, mean over both texts of
    the pair; touched tokens of the better text are good, those of the worse one bad, all others neither (.5), as in
    token-level continuous rewards (Yoon et al. 2024, arXiv 2407.16574); added to another loss `label_weight` times.
    """
    values = values.double()
    if stage.loss == "labels":
        return _label_losses(values, texts)
    if stage.loss == "edited":
        good, bad = (_mean_touched(values, side, len(texts.good)) for side in texts.touched)
    else:
        scores = text_scores(values, texts, stage)
        good, bad = scores[texts.good], scores[texts.bad]
    compared = binary_loss(good, bad) if stage.loss == "binary" else bradley_terry_loss(good, bad, stage.margin)
    return compared + stage.label_weight * _label_losses(values, texts) if stage.label_weight else compared


def _mean_touched(values: Tensor, side: Touched, num_pairs: int) -> Tensor:
    """[N] mean value of the tokens that the edit of each pair touched on one side; 0 where there are none."""
    sums = torch.zeros(num_pairs, dtype=torch.float64).index_add(0, side.pairs, values[side.entries])
    return sums / torch.bincount(side.pairs, minlength=num_pairs).clamp_min(1)


def _label_losses(values: Tensor, texts: Texts) -> Tensor:
    """[N] mean cross-entropy over the tokens of both texts of each pair."""
    num_pairs = len(texts.good)
    neutral = binary_cross_entropy_with_logits(values, torch.full_like(values, 0.5), reduction="none")
    counted = texts.owner >= 0
    by_text = torch.zeros(len(texts.ends), dtype=torch.float64)
    by_text = by_text.index_add(0, texts.owner[counted], neutral[counted])
    sums = by_text[texts.good] + by_text[texts.bad]
    for side, label in zip(texts.touched, (1.0, 0.0), strict=True):
        at = values[side.entries]
        labelled = binary_cross_entropy_with_logits(at, torch.full_like(at, label), reduction="none")
        sums = sums + torch.zeros(num_pairs, dtype=torch.float64).index_add(
            0, side.pairs, labelled - neutral[side.entries]
        )
    return sums / (texts.lengths[texts.good] + texts.lengths[texts.bad])
