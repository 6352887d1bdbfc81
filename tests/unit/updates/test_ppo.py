"""`ppo_update` as a whole: metrics that can be computed by hand, KL shaping, skipped samples, clipping, schedules."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from rlft_core.config.model import LoraConfig
from rlft_core.config.online import PpoStage
from rlft_core.errors import RewardError
from rlft_core.kl import AdaptiveKl
from rlft_core.models.policy import Policy
from rlft_core.types import Batch, ScoredGroup
from rlft_core.updates.experience import flatten
from rlft_core.updates.ppo import PpoState, ppo_update, reference_pass

MakeGroups = Callable[..., list[ScoredGroup]]
MakeStage = Callable[..., PpoStage]
MakeState = Callable[..., PpoState]
Plain = Callable[..., list[float]]


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in policy.named_parameters()}


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def with_completions(group: ScoredGroup, change: Callable[[Any], Any]) -> ScoredGroup:
    completions = tuple(change(c) for c in group.group.completions)
    return dataclasses.replace(group, group=dataclasses.replace(group.group, completions=completions))


def with_rewards(group: ScoredGroup, per_token: Sequence[Sequence[float]]) -> ScoredGroup:
    scores = zip(group.scores, per_token, strict=True)
    changed = tuple(dataclasses.replace(s, per_token=np.array(r, np.float32)) for s, r in scores)
    return dataclasses.replace(group, scores=changed)


def moved(policy: Policy, factor: float = 1.02) -> Policy:
    other = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter *= factor
    return other


def test_metrics_of_a_first_update(
    new_policy: Callable[..., Policy], make_groups: MakeGroups, make_stage: MakeStage, make_state: MakeState
) -> None:
    policy = new_policy()
    groups = make_groups(3, 4, lm=policy.lm)
    stage = make_stage(advantage={"type": "rloo", "whiten": False}, kl={"coefficient": 0.1}, num_steps=4)
    metrics = ppo_update(make_state(stage, policy), Batch(tuple(groups), 0), stage)
    lengths = [c.num_tokens for g in groups for c in g.group.completions]
    totals = [[float(s.per_token[-1]) for s in g.scores] for g in groups]
    flat = [t for group in totals for t in group]
    assert metrics["policy/ratio"] == metrics["policy/ratio_max"] == 1.0
    assert metrics["policy/approx_kl"] == metrics["policy/clip_fraction"] == 0.0
    assert metrics["policy/importance"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["kl/mean"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["kl/coefficient"] == 0.1
    assert metrics["policy/lr"] == 1e-2
    assert metrics["reward/mean"] == metrics["reward/made_up"] == pytest.approx(sum(flat) / 12, rel=1e-6)
    assert metrics["reward/std_in_group"] == pytest.approx(np.mean([np.std(t) for t in totals]), rel=1e-6)
    assert metrics["reward/skipped"] == 0
    assert metrics["tokens/generated"] == sum(lengths)
    assert metrics["tokens/completion_mean"] == pytest.approx(sum(lengths) / 12)
    assert metrics["tokens/ended_by_eos"] == 1.0
    # -mean over tokens of the advantage: a sample against the mean of the three others of its group
    advantages = [t - (sum(group) - t) / 3 for group in totals for t in group]
    expected = -sum(a * n for a, n in zip(advantages, lengths, strict=True)) / sum(lengths)
    assert metrics["policy/loss"] == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_importance_weights_and_lag(
    new_policy: Callable[..., Policy], make_groups: MakeGroups, make_stage: MakeStage, make_state: MakeState
) -> None:
    policy = new_policy()
    halved = np.float32(math.log(1.5))
    groups = [
        with_completions(
            g, lambda c: dataclasses.replace(c, logprobs=c.logprobs - halved, versions=c.versions + np.int32(3))
        )
        for g in make_groups(2, lm=policy.lm)
    ]
    stage = make_stage(clip={"importance_cap": 1.2}, max_lag=2)
    metrics = ppo_update(make_state(stage, policy), Batch(tuple(groups), 5), stage)
    assert metrics["policy/importance_raw"] == pytest.approx(1.5, rel=1e-5)
    assert metrics["policy/importance_raw_max"] == pytest.approx(1.5, rel=1e-5)
    assert metrics["policy/importance"] == pytest.approx(1.2, rel=1e-6)
    assert metrics["policy/engine_difference"] == pytest.approx(math.log(1.5), rel=1e-5)
    assert metrics["policy/ratio_max"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["policy/lag"] == 2.0


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
@pytest.mark.parametrize("epochs", [1, 2])
def test_kl_in_the_reward_is_a_reward(
    kind: str,
    epochs: int,
    new_policy: Callable[..., Policy],
    make_groups: MakeGroups,
    make_stage: MakeStage,
    make_state: MakeState,
    plain_logprobs: Plain,
) -> None:
    """The same new weights as without KL, when each token's reward is given less the price of its KL."""
    start = new_policy()
    reference = moved(start)
    groups = make_groups(2, lm=start.lm, temperature=0.8)
    shaped, total_kl, num_tokens = [], 0.0, 0
    for g in groups:
        rewards = []
        for completion, score in zip(g.group.completions, g.scores, strict=True):
            prompt, ids = g.group.prompt.token_ids, completion.token_ids.tolist()
            mine = plain_logprobs(start.lm, prompt, ids, 0.8)
            d = [a - b for a, b in zip(mine, plain_logprobs(reference.lm, prompt, ids, 0.8), strict=True)]
            penalty = {"k1": lambda x: x, "k2": lambda x: x * x / 2, "k3": lambda x: math.exp(-x) - 1 + x}[kind]
            rewards.append([r - 0.7 * penalty(x) for r, x in zip(score.per_token.tolist(), d, strict=True)])
            total_kl += sum(d)
            num_tokens += len(d)
        shaped.append(with_rewards(g, rewards))
    common = {"sampling": {"temperature": 0.8}, "advantage": {"type": "rloo"}, "epochs": epochs}
    stage = make_stage(kl={"coefficient": 0.7, "estimator": kind}, **common)
    state = make_state(stage, copy.deepcopy(start), reference=reference)
    metrics = ppo_update(state, Batch(tuple(groups), 0), stage)
    plain_stage = make_stage(**common)
    plain = make_state(plain_stage, copy.deepcopy(start))
    plain_metrics = ppo_update(plain, Batch(tuple(shaped), 0), plain_stage)
    assert metrics["kl/mean"] == pytest.approx(total_kl / num_tokens, rel=1e-4)
    assert metrics["kl/per_sample"] == pytest.approx(total_kl / 6, rel=1e-4)
    assert "kl/mean" not in plain_metrics
    assert distance(weights(state.policy), weights(start)) > 1e-3
    assert distance(weights(state.policy), weights(plain.policy)) < 1e-5


def test_skipped_samples_take_no_part(
    new_policy: Callable[..., Policy], make_groups: MakeGroups, make_stage: MakeStage, make_state: MakeState
) -> None:
    start = new_policy()
    groups = make_groups(3, lm=start.lm)
    nan = [np.full_like(s.per_token, np.nan) for s in groups[0].scores]
    partly = dataclasses.replace(
        groups[0],
        scores=(*groups[0].scores[:2], dataclasses.replace(groups[0].scores[2], per_token=nan[2], skipped="made_up")),
    )
    wholly = dataclasses.replace(
        groups[1], scores=tuple(dataclasses.replace(s, skipped="made_up") for s in groups[1].scores)
    )
    smaller = dataclasses.replace(
        groups[0],
        group=dataclasses.replace(groups[0].group, completions=groups[0].group.completions[:2]),
        scores=groups[0].scores[:2],
    )
    for advantage in ({"type": "rloo"}, {"type": "grpo"}, {"type": "gae"}):
        stage = make_stage(advantage=advantage, kl={"coefficient": 0.1})
        skipping, without = make_state(stage, copy.deepcopy(start)), make_state(stage, copy.deepcopy(start))
        metrics = ppo_update(skipping, Batch((partly, wholly, groups[2]), 0), stage)
        expected = ppo_update(without, Batch((smaller, groups[2]), 0), stage)
        assert metrics.pop("reward/skipped") == 4
        assert expected.pop("reward/skipped") == 0
        assert metrics == expected
        assert distance(weights(skipping.policy), weights(without.policy)) == 0.0
        assert distance(weights(skipping.policy), weights(start)) > 1e-3


def test_a_step_without_any_reward_stops_the_run(
    new_policy: Callable[..., Policy], make_groups: MakeGroups, make_stage: MakeStage, make_state: MakeState
) -> None:
    groups = [
        dataclasses.replace(g, scores=tuple(dataclasses.replace(s, skipped="made_up") for s in g.scores))
        for g in make_groups(2)
    ]
    stage = make_stage()
    with pytest.raises(RewardError, match="step 7: every sample of the step was skipped"):
        ppo_update(make_state(stage, new_policy()), Batch(tuple(groups), 7), stage)


@pytest.mark.parametrize("dual", [None, 1.01])
def test_clipping_in_the_second_epoch(
    dual: float | None,
    new_policy: Callable[..., Policy],
    make_groups: MakeGroups,
    make_stage: MakeStage,
    make_state: MakeState,
    plain_logprobs: Plain,
) -> None:
    """Metrics of two epochs are the means of both. After the first, ratios come from the weights it left."""
    start = new_policy()
    groups = make_groups(3, lm=start.lm)
    low, high = 0.002, 0.004
    keys = {"advantage": {"type": "rloo", "whiten": False}, "clip": {"low": low, "high": high, "dual": dual}}
    keys |= {"optimizer": {"lr": 1e-3, "eps": 1e-3}}
    one, two = make_stage(**keys), make_stage(epochs=2, **keys)
    after_one = make_state(one, copy.deepcopy(start))
    ppo_update(after_one, Batch(tuple(groups), 0), one)
    after_two = make_state(two, copy.deepcopy(start))
    metrics = ppo_update(after_two, Batch(tuple(groups), 0), two)
    losses, ratios, upper, lower, floored = [], [], 0, 0, 0
    for g in groups:
        totals = [float(s.per_token[-1]) for s in g.scores]
        for k, completion in enumerate(g.group.completions):
            advantage = totals[k] - (sum(totals) - totals[k]) / (len(totals) - 1)
            text = (g.group.prompt.token_ids, completion.token_ids.tolist())
            pairs = zip(plain_logprobs(after_one.policy.lm, *text), plain_logprobs(start.lm, *text), strict=True)
            for new, old in pairs:
                ratio = math.exp(new - old)
                objective = min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)
                if dual and advantage < 0 and objective < dual * advantage:
                    objective, floored = dual * advantage, floored + 1
                upper += advantage > 0 and ratio > 1 + high
                lower += advantage < 0 and ratio < 1 - low
                losses.append((-advantage - objective) / 2)  # the first epoch has ratio 1
                ratios.append(ratio)
    assert min(upper, lower, floored if dual else 1) > 0
    count = 2 * len(ratios)
    assert metrics["policy/clip_fraction_upper"] == pytest.approx(upper / count)
    assert metrics["policy/clip_fraction_lower"] == pytest.approx(lower / count)
    assert metrics["policy/clip_fraction"] == pytest.approx((upper + lower) / count)
    assert metrics["policy/dual_clip_fraction"] == pytest.approx(floored / count)
    assert metrics["policy/ratio_max"] == pytest.approx(max(ratios), rel=1e-4)
    assert metrics["policy/loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-4)


def test_minibatches_are_every_nth_group_and_each_is_a_step(
    new_policy: Callable[..., Policy],
    make_groups: MakeGroups,
    make_stage: MakeStage,
    make_state: MakeState,
    record_gradients: Callable[[PpoState], list[dict[str, torch.Tensor]]],
) -> None:
    start = new_policy()
    groups = make_groups(4, lm=start.lm)
    keys = {"advantage": {"type": "grpo"}, "max_lag": 1}
    whole, half = make_stage(epochs=2, minibatches=2, **keys), make_stage(**keys)
    state, expected = make_state(whole, copy.deepcopy(start)), make_state(half, copy.deepcopy(start))
    gradients, expected_gradients = record_gradients(state), record_gradients(expected)
    ppo_update(state, Batch(tuple(groups), 0), whole)
    ppo_update(expected, Batch((groups[0], groups[2]), 0), half)
    assert len(gradients) == 4
    assert state.step == 1
    assert distance(gradients[0], expected_gradients[0]) < 1e-6
    assert distance(gradients[1], expected_gradients[0]) > 1e-3


def test_the_learning_rate_counts_optimiser_steps(
    new_policy: Callable[..., Policy], make_groups: MakeGroups, make_stage: MakeStage, make_state: MakeState
) -> None:
    keys = {"lr": 1.0e-3, "warmup_steps": 8, "schedule": "constant"}
    stage = make_stage(epochs=2, minibatches=2, num_steps=3, optimizer=keys)
    state = make_state(stage, new_policy())
    batch = Batch(tuple(make_groups(4)), 0)
    rates = [ppo_update(state, batch, stage)["policy/lr"] for _ in range(3)]
    assert rates == pytest.approx([0.5e-3, 1e-3, 1e-3])
    assert state.optimizer.param_groups[0]["lr"] == 1e-3


def test_adaptive_kl_moves_after_the_step_that_it_saw(
    new_policy: Callable[..., Policy], make_groups: MakeGroups, make_stage: MakeStage, make_state: MakeState
) -> None:
    policy = new_policy()
    kl = {"coefficient": 0.1, "adaptive": {"target": 1.0, "horizon": 60.0}}
    stage = make_stage(kl=kl, optimizer={"lr": 1e-9})
    state = make_state(stage, policy)
    state.kl = AdaptiveKl(0.1, 1.0, 60.0)
    batch = Batch(tuple(make_groups(4, 3, lm=policy.lm)), 0)
    # KL 0 is more than 20 % below the target: 12 samples change the coefficient by -0.2 * 12 / 60 of itself.
    found = [ppo_update(state, batch, stage)["kl/coefficient"] for _ in range(3)]
    assert found == pytest.approx([0.1, 0.1 * 0.96, 0.1 * 0.96**2], rel=1e-6)


def test_an_adapter_alone_is_trained_and_the_reference_is_the_model_without_it(
    new_policy: Callable[..., Policy],
    make_groups: MakeGroups,
    make_stage: MakeStage,
    make_state: MakeState,
    plain_logprobs: Plain,
) -> None:
    base = new_policy()
    policy = new_policy(LoraConfig(rank=4, alpha=8.0))
    groups = make_groups(3, lm=base.lm)
    stage = make_stage(kl={"coefficient": 0.1}, optimizer={"lr": 0.1})
    state = make_state(stage, policy)
    before = weights(policy)
    batch = Batch(tuple(groups), 0)
    assert ppo_update(state, batch, stage)["kl/mean"] == pytest.approx(0.0, abs=1e-6)
    ppo_update(state, batch, stage)
    changed = {name for name, value in weights(policy).items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "lora_" in name}
    assert len(changed) == 2 * 2 * 7  # A and B, two layers, seven matrices
    expected = [
        p
        for g in groups
        for c in g.group.completions
        for p in plain_logprobs(base.lm, g.group.prompt.token_ids, c.token_ids.tolist())
    ]
    found, _ = reference_pass(state, flatten(groups), stage)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    text = (groups[0].group.prompt.token_ids, groups[0].group.completions[0].token_ids.tolist())
    assert plain_logprobs(policy.lm, *text) != pytest.approx(plain_logprobs(base.lm, *text), abs=1e-3)


@pytest.mark.parametrize("advantage", ["rloo", "grpo", "reinforce_pp", "gae"])
def test_equal_rewards_give_finite_numbers(
    advantage: str,
    new_policy: Callable[..., Policy],
    make_groups: MakeGroups,
    make_stage: MakeStage,
    make_state: MakeState,
) -> None:
    policy = new_policy()
    groups = [with_rewards(g, [np.zeros_like(s.per_token) for s in g.scores]) for g in make_groups(4, lm=policy.lm)]
    stage = make_stage(advantage={"type": advantage}, kl={"coefficient": 0.0}, epochs=2, minibatches=2)
    state = make_state(stage, policy)
    for step in range(2):
        metrics = ppo_update(state, Batch(tuple(groups), step), stage)
        assert all(math.isfinite(value) for value in metrics.values()), metrics
    assert all(bool(p.isfinite().all()) for p in policy.parameters())
    assert metrics["policy/grad_norm"] == 0.0
