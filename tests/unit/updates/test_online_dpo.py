"""On-policy preferences: which samples become a pair, and that the step is that of the same pairs given beforehand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from rlft_core.config.online import OnlineDpoStage
from rlft_core.errors import RewardError
from rlft_core.models.compute import Compute
from rlft_core.models.policy import Policy
from rlft_core.types import Batch, Completion, Prompt, RolloutGroup, Row, Score, ScoredGroup
from rlft_core.updates.collective import Alone
from rlft_core.updates.dpo import DpoState, dpo_update
from rlft_core.updates.online_dpo import online_dpo_update, pairs_of
from rlft_core.updates.optimizer import make_optimizer
from rlft_core.updates.reward_texts import TokenContrast
from tests.unit.updates.test_dpo import moved
from tests.unit.updates.test_dpo import stage as offline

NewPolicy = Callable[..., Policy]


def stage(**keys: Any) -> OnlineDpoStage:
    optimizer = {"lr": 1e-2, "warmup_steps": 0, "schedule": "constant", "max_grad_norm": 1e9}
    return OnlineDpoStage.model_validate({"optimizer": optimizer, **keys})


def scored(number: int, texts: Sequence[Sequence[int]], rewards: Sequence[float | None]) -> ScoredGroup:
    """A group whose sample k has the tokens `texts[k]` and this reward; None: its reward failed."""
    completions = tuple(
        Completion(np.array(ids, np.int32), np.zeros(len(ids), np.float32), np.zeros(len(ids), np.int32), "stop", "x")
        for ids in texts
    )
    scores = tuple(
        Score(
            np.array([*[0.0] * (len(ids) - 1), reward or 0.0], np.float32),
            {} if reward is None else {"judge": reward},
            skipped="judge" if reward is None else None,
        )
        for ids, reward in zip(texts, rewards, strict=True)
    )
    prompt = Prompt(Row(f"row-{number}", "in", "out"), (5, 6, number + 1), len(texts), number)
    return ScoredGroup(RolloutGroup(prompt, completions), scores)


GROUPS = (
    scored(0, [(1, 2), (3, 4, 2), (7, 2)], [0.5, 0.0, 1.0]),
    scored(1, [(8, 2), (9, 2)], [0.5, 0.5]),
    scored(2, [(10, 2), (11, 12, 2)], [1.0, None]),
    scored(3, [(13, 2), (14, 15, 2)], [0.0, 1.0]),
)


def test_the_best_is_preferred_to_the_worst_and_ties_are_left_out() -> None:
    assert pairs_of(GROUPS) == [
        TokenContrast((5, 6, 1), (7, 2), ((3, 4, 2),), ("sampled",)),
        TokenContrast((5, 6, 4), (14, 15, 2), ((13, 2),), ("sampled",)),
    ]


@pytest.mark.parametrize("preference", [{}, {"loss": "ipo"}, {"loss": "hinge"}])
def test_the_step_is_that_of_the_same_pairs_given_beforehand(new_policy: NewPolicy, preference: dict[str, Any]) -> None:
    reference = new_policy()
    policies = [moved(reference), moved(reference)]
    compute = Compute(torch.device("cpu"), torch.float32, "dense", True, 512, 512)
    online, given = (
        DpoState(policy, make_optimizer(policy, config.optimizer), copy.deepcopy(reference), compute, Alone())
        for policy, config in zip(policies, (stage(), offline()), strict=True)
    )
    metrics = online_dpo_update(online, Batch(GROUPS, 0, 1), stage(preference=preference))
    expected = dpo_update(given, pairs_of(GROUPS), offline(preference=preference))
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-7)
    for mine, theirs in zip(policies[0].parameters(), policies[1].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    assert online.step == 1
    assert (metrics["pairs/count"], metrics["pairs/ties"], metrics["reward/skipped"]) == (2.0, 1.0, 1.0)
    assert metrics["reward/judge"] == pytest.approx((0.5 + 0 + 1 + 0.5 + 0.5 + 1 + 0 + 1) / 8)
    assert metrics["tokens/generated"] == 21.0


def test_a_step_of_ties_changes_nothing_and_counts(new_policy: NewPolicy) -> None:
    policy = new_policy()
    before = [parameter.clone() for parameter in policy.parameters()]
    compute = Compute(torch.device("cpu"), torch.float32, "dense", True, 512, 512)
    state = DpoState(policy, make_optimizer(policy, stage().optimizer), new_policy(), compute, Alone())
    metrics = online_dpo_update(state, Batch(GROUPS[1:2], 0, 1), stage())
    assert (metrics["pairs/count"], metrics["pairs/ties"], state.step) == (0.0, 1.0, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    failed = scored(4, [(1, 2), (3, 2)], [None, None])
    with pytest.raises(RewardError, match="step 1: every sample of the step was skipped"):
        online_dpo_update(state, Batch((failed,), 1, 1), stage())


def test_a_pair_needs_two_samples() -> None:
    with pytest.raises(ValueError, match="a pair needs two samples"):
        stage(samples_per_prompt=1)
    with pytest.raises(ValueError, match=r"prompts_per_step \(8\) does not divide by learner\.num_ranks \(3\);"):
        stage(learner={"num_ranks": 3})
