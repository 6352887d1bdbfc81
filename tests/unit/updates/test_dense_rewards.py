"""Rewards of single tokens through the whole update: where a reward stands is all that matters, not what put it there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rlft_core.config.online import PpoStage
from rlft_core.models.policy import Policy
from rlft_core.rewards.protocol import TokenRewards, WeightedReward
from rlft_core.rewards.scoring import score_group
from rlft_core.types import Batch, ScoredGroup
from rlft_core.updates.ppo import PpoState, ppo_update
from tests.unit.rewards.test_scoring import Scripted
from tests.unit.updates.test_ppo import with_rewards

MakeGroups = Callable[..., list[ScoredGroup]]
MakeStage = Callable[..., PpoStage]
MakeState = Callable[..., PpoState]

ADVANTAGES: list[dict[str, Any]] = [
    {"type": "gae", "lam": 0.9},
    {"type": "gae", "critic": {"type": "model", "optimizer": {"lr": 1e-2, "warmup_steps": 0}}},
    {"type": "rloo"},
]


def updated(
    new_policy: Callable[..., Policy], make_state: MakeState, stage: PpoStage, groups: list[ScoredGroup]
) -> Any:
    """The weights after two updates from these groups."""
    state = make_state(stage, new_policy())
    for step in range(2):
        ppo_update(state, Batch(tuple(groups), step), stage)
    return {name: p.detach().clone() for name, p in state.policy.named_parameters()}


@pytest.mark.parametrize("advantage", ADVANTAGES, ids=["head", "critic", "rloo"])
def test_a_dense_reward_at_one_token_is_that_reward_placed_there_by_hand(
    new_policy: Callable[..., Policy],
    make_stage: MakeStage,
    make_state: MakeState,
    make_groups: MakeGroups,
    advantage: dict[str, Any],
) -> None:
    stage = make_stage(advantage=advantage, kl={"coefficient": 0.05})
    groups = make_groups(4, 3, seed=1)
    rng = np.random.default_rng(2)
    by_hand, scored = [], []
    for group in groups:
        placed = []
        for completion in group.group.completions:
            values = np.zeros(completion.num_tokens)
            values[rng.integers(completion.num_tokens)] = rng.normal()
            placed.append(values)
        by_hand.append(with_rewards(group, [(0.5 * values).tolist() for values in placed]))
        rewards = [TokenRewards(float(values.mean()), values) for values in placed]
        reward = Scripted("dense", all_at_once=lambda _, found=rewards: found)
        scored.append(score_group(group.group, [WeightedReward(reward, 0.5)]))
    found, expected = (updated(new_policy, make_state, stage, batch) for batch in (scored, by_hand))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    # ... and it matters where: at the last token instead, with a critic, the update is another one.
    moved = [
        with_rewards(group, [[0.0] * (len(s.per_token) - 1) + [s.total] for s in group.scores]) for group in by_hand
    ]
    other = updated(new_policy, make_state, stage, moved)
    same = all(torch.allclose(other[name], expected[name], atol=1e-7) for name in expected)
    assert same == (advantage["type"] == "rloo")


def test_a_sequence_score_as_token_rewards_is_the_same_update(
    new_policy: Callable[..., Policy], make_stage: MakeStage, make_state: MakeState, make_groups: MakeGroups
) -> None:
    stage = make_stage(advantage={"type": "gae"})
    groups = make_groups(4, 3, seed=3)
    whole = {id(g): [s.total for s in g.scores] for g in groups}

    def last(group: ScoredGroup) -> list[TokenRewards]:
        totals = zip(group.group.completions, whole[id(group)], strict=True)
        return [TokenRewards(t, np.array([0.0] * (c.num_tokens - 1) + [t])) for c, t in totals]

    plain, dense = [], []
    for group in groups:
        values, tokens = whole[id(group)], last(group)
        one = Scripted("r", all_at_once=lambda _, found=values: found)
        other = Scripted("r", all_at_once=lambda _, found=tokens: found)
        plain.append(score_group(group.group, [WeightedReward(one, 1.0)]))
        dense.append(score_group(group.group, [WeightedReward(other, 1.0)]))
    assert all(
        np.array_equal(a.per_token, b.per_token)
        for g, h in zip(plain, dense, strict=True)
        for a, b in zip(g.scores, h.scores, strict=True)
    )
    stripped = [dataclasses.replace(g, scores=tuple(dataclasses.replace(s, dense={}) for s in g.scores)) for g in dense]
    found, expected = (updated(new_policy, make_state, stage, batch) for batch in (stripped, plain))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
