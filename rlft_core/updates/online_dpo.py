"""One step of on-policy preference optimisation: of each prompt's samples the best is preferred to the worst.

    scored groups ─▶ one pair each, ties left out ─▶ `dpo_update`

With a judge as the reward this is the self-training of Lee et al. 2024 (arXiv 2402.11253): the frozen start is both the
judge and the reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlft_core.config.online import OnlineDpoStage
from rlft_core.errors import RewardError
from rlft_core.types import Batch, Completion, ScoredGroup
from rlft_core.updates.collective import sum_tallies
from rlft_core.updates.dpo import DpoState, dpo_update
from rlft_core.updates.experience import sample_tallies
from rlft_core.updates.optimizer import learning_rate
from rlft_core.updates.reward_texts import TokenContrast


def online_dpo_update(state: DpoState, batch: Batch, stage: OnlineDpoStage) -> dict[str, float]:
    """One optimiser step on the pairs of this rank's groups; returns metrics of the whole step, the same on every rank.

    A step in which every group ties changes nothing, and counts. Raises RewardError when no sample has a reward.
    """
    contrasts = pairs_of(batch.groups)
    tallies = sum_tallies(sample_tallies(batch.groups, step=batch.step), state.collective)
    if not int(tallies["reward/mean"].count):
        raise RewardError(f"step {batch.step}: every sample of the step was skipped, so there is nothing to learn from")
    tokens = [c.num_tokens for group in batch.groups for c in group.group.completions]
    skipped = sum(score.skipped is not None for group in batch.groups for score in group.scores)
    ties = sum(_ties(scored) for scored in batch.groups)
    sums = torch.tensor([ties, len(contrasts), sum(tokens), skipped], dtype=torch.float64)
    num_ties, num_pairs, num_tokens, num_skipped = state.collective.sum(sums).tolist()
    if num_pairs:
        metrics = dpo_update(state, contrasts, stage)
    else:
        lr = learning_rate(state.step, num_steps=stage.num_steps, config=stage.optimizer)
        metrics = {"pairs/count": 0.0, "policy/grad_norm": 0.0, "policy/lr": lr}
        state.step += 1
    return {
        **{name: value.mean for name, value in tallies.items()},
        **metrics,
        "pairs/ties": num_ties,
        "reward/skipped": num_skipped,
        "tokens/generated": num_tokens,
    }


def pairs_of(groups: Sequence[ScoredGroup]) -> list[TokenContrast]:
    """The best sample of each group against its worst, the first of several; none where they score the same."""
    found = []
    for scored in groups:
        kept = _kept(scored)
        if not kept:
            continue
        best, worst = max(kept, key=lambda pair: pair[0]), min(kept, key=lambda pair: pair[0])
        if best[0] > worst[0]:
            texts = tuple(tuple(completion.token_ids.tolist()) for _, completion in (best, worst))
            found.append(TokenContrast(tuple(scored.group.prompt.token_ids), texts[0], (texts[1],), ("sampled",)))
    return found


def _kept(scored: ScoredGroup) -> list[tuple[float, Completion]]:
    """The samples that have a score and tokens, with their scores."""
    return [
        (score.total, completion)
        for score, completion in zip(scored.scores, scored.group.completions, strict=True)
        if score.skipped is None and completion.num_tokens
    ]


def _ties(scored: ScoredGroup) -> bool:
    """Whether there were samples to compare, and none was better."""
    totals = [total for total, _ in _kept(scored)]
    return len(totals) > 1 and min(totals) == max(totals)
