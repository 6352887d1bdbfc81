"""One policy update: everything between a scored batch and new weights.

    experience ─▶ reference pass ─▶ [old pass] ─▶ KL-shaped rewards ─▶ advantages ─▶ epochs x minibatches ─▶ critic, KL

The loss of an optimiser step is a sum over tokens divided by the number of tokens of all its micro-batches on all
ranks, so that neither packing nor sharding can change the gradient. Knows nothing of Ray, checkpoints or engines.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlft_core import losses
from rlft_core.advantages import centre_by_group, explained_variance_of, gae, grpo, reinforce_pp_baseline, rloo, spread
from rlft_core.config.algorithms import GaeConfig, GrpoConfig, RlooConfig
from rlft_core.config.online import PpoStage
from rlft_core.errors import RewardError
from rlft_core.kl import KlController, kl_estimate
from rlft_core.masking import Moments, Tally, add_tallies, moments, tally, whiten
from rlft_core.models.attention import DeviceRows
from rlft_core.models.compute import Compute
from rlft_core.models.policy import Policy
from rlft_core.types import Batch
from rlft_core.updates.collective import Collective, sum_tallies
from rlft_core.updates.critics import RidgeHead
from rlft_core.updates.experience import Experience, flatten, sample_tallies, select
from rlft_core.updates.model_critic import ModelCritic
from rlft_core.updates.optimizer import learning_rate, optimizer_step
from rlft_core.updates.passes import collect, micro_batches, without_adapter


@dataclass(slots=True)
class PpoState:
    """Everything an update reads and changes. `reference` is None when none is needed or the adapter is switched off."""

    policy: Policy
    optimizer: torch.optim.AdamW
    reference: Policy | None
    critic: RidgeHead | ModelCritic | None
    kl: KlController
    compute: Compute
    collective: Collective
    step: int = 0

    @property
    def module(self) -> Policy:
        """What is trained and saved first."""
        return self.policy


@dataclass(frozen=True, slots=True)
class Targets:
    """What the loss compares with, on the flat token axis [T]: see `ppo_update`."""

    advantages: Tensor
    returns: Tensor | None
    values: Tensor | None
    old_logprobs: Tensor | None
    ref_logprobs: Tensor | None
    features: Tensor | None


def ppo_update(state: PpoState, batch: Batch, stage: PpoStage) -> dict[str, float]:
    """Update policy and critic from one batch; returns metrics of the whole step, the same on every rank.

    Raises RewardError when no sample of the step has a reward.
    """
    experience = flatten(batch.groups)
    num_tokens = int(state.collective.sum(torch.tensor([experience.num_tokens]))[0])
    if not num_tokens:
        raise RewardError(f"step {batch.step}: every sample of the step was skipped, so there is nothing to learn from")
    tallies = sample_tallies(batch.groups, step=batch.step)
    targets = prepare(state, experience, stage, tallies)
    # Before the policy: what the critic kept for its backward pass must not stand beside what the policy needs.
    tallies |= _learn_value(state, experience, targets, stage)
    warming = stage.model_critic is not None and state.step < stage.model_critic.warmup_steps
    grad_norm = 0.0
    for epoch in range(0 if warming else stage.epochs):
        for part in range(stage.minibatches):
            update = (state.step * stage.epochs + epoch) * stage.minibatches + part
            grad_norm, found = _minibatch(state, experience, targets, stage, part, update)
            tallies = add_tallies(tallies, found)
    whole = sum_tallies(tallies, state.collective)
    metrics = {name: value.mean for name, value in whole.items()}
    metrics |= {
        f"{name}_max": float(whole[name].max) for name in ("policy/importance_raw", "policy/ratio") if name in whole
    }
    metrics |= _totals(state, experience, num_tokens, grad_norm, stage)
    num_samples = int(whole["reward/mean"].count)
    state.kl = state.kl.update(metrics.get("kl/per_sample", 0.0), num_samples)
    state.step += 1
    return metrics


def prepare(state: PpoState, experience: Experience, stage: PpoStage, tallies: dict[str, Tally]) -> Targets:
    """Passes without gradient, KL shaping and advantages. Adds its metrics to `tallies`."""
    needs_reference = state.kl.coefficient > 0 or stage.kl.coefficient > 0 or isinstance(state.critic, RidgeHead)
    ref_logprobs = features = old = None
    if needs_reference:
        ref_logprobs, features = reference_pass(state, experience, stage)
    if stage.updates_per_step > 1 or stage.max_lag > 0:
        old = _policy_pass(state, experience, stage)
    rewards = experience.rewards
    if ref_logprobs is not None:
        # With a single update the learner's own log-probs come with the loss; the engine's stand in for the penalty.
        sampled = old if old is not None else experience.engine_logprobs
        penalty = kl_estimate(sampled, ref_logprobs, stage.kl.estimator)
        tallies["kl/mean"] = tally(kl_estimate(sampled, ref_logprobs, "k1"))
        tallies["kl/per_sample"] = tally(experience.sum_by_sample(kl_estimate(sampled, ref_logprobs, "k1")))
        if stage.kl.place == "reward":
            rewards = rewards - state.kl.coefficient * penalty
    if isinstance(stage.advantage, GaeConfig):
        advantages, returns, values = _with_critic(state, experience, rewards, features, stage.advantage, tallies)
        return Targets(advantages, returns, values, old, ref_logprobs, features)
    scores = experience.sum_by_sample(rewards)
    advantages = spread(_against_group(state, scores, experience, stage), experience.lengths)
    return Targets(advantages, None, None, old, ref_logprobs, features)


def reference_pass(state: PpoState, experience: Experience, stage: PpoStage) -> tuple[Tensor, Tensor]:
    """[T] log-probs of the reference and [T, H] its hidden states."""
    reference = state.reference or state.policy

    def forward(rows: DeviceRows) -> tuple[Tensor, ...]:
        output = reference(rows, temperature=stage.sampling.temperature)
        return output.logprobs, output.hidden

    with without_adapter(reference.lm, active=state.reference is None):
        found = collect(forward, experience.sequences, experience.num_tokens, state.compute, state.collective)
    return found[0], found[1]


def _policy_pass(state: PpoState, experience: Experience, stage: PpoStage) -> Tensor:
    def forward(rows: DeviceRows) -> tuple[Tensor, ...]:
        return (state.policy(rows, temperature=stage.sampling.temperature).logprobs,)

    return collect(forward, experience.sequences, experience.num_tokens, state.compute, state.collective)[0]


def _with_critic(
    state: PpoState,
    experience: Experience,
    rewards: Tensor,
    features: Tensor | None,
    config: GaeConfig,
    tallies: dict[str, Tally],
) -> tuple[Tensor, Tensor, Tensor]:
    """[T] advantages, returns and values."""
    if isinstance(state.critic, RidgeHead):
        assert features is not None
        values = state.critic.values(features)
    else:
        assert state.critic is not None
        values = state.critic.values(experience, state.compute, state.collective)
    advantages, returns = gae(rewards, values, experience.lengths, gamma=config.gamma, lam=config.lam)
    # Explained variance of the Monte-Carlo return: the lambda-return would contain the prediction itself.
    _, sampled = gae(rewards, torch.zeros_like(values), experience.lengths, gamma=config.gamma, lam=1.0)
    residuals, spreads = _global(moments(sampled - values), state), _global(moments(sampled), state)
    tallies["critic/explained_variance"] = tally(torch.tensor([explained_variance_of(residuals, spreads)]))
    tallies["critic/value"] = tally(values)
    if config.whiten:
        advantages = whiten(advantages, _global(moments(advantages), state))
    return advantages, returns, values


def _against_group(state: PpoState, scores: Tensor, experience: Experience, stage: PpoStage) -> Tensor:
    """[S] advantages of each sample against the others of its group."""
    config = stage.advantage
    if isinstance(config, RlooConfig):
        advantages = rloo(scores, experience.group_sizes)
        return whiten(advantages, _global(moments(advantages), state), False) if config.whiten else advantages
    if isinstance(config, GrpoConfig):
        return grpo(scores, experience.group_sizes, normalize_std=config.normalize_std)
    centred = centre_by_group(scores, experience.group_sizes)
    return reinforce_pp_baseline(scores, experience.group_sizes, batch=_global(moments(centred), state))


def _minibatch(
    state: PpoState, experience: Experience, targets: Targets, stage: PpoStage, part: int, update: int
) -> tuple[float, dict[str, Tally]]:
    """One optimiser step of the policy: (gradient norm before clipping, metrics)."""
    chosen = range(part, len(experience.sequences), stage.minibatches)
    mine = int(sum(experience.group_tokens[index] for index in chosen))
    num_tokens = int(state.collective.sum(torch.tensor([mine]))[0])
    tallies: dict[str, Tally] = {}
    with state.compute.autocast():
        for work in micro_batches(select(experience, chosen), state.compute, state.collective):
            loss, found = _loss(state, work.rows, experience, targets, stage)
            # Sharded gradients are averaged over ranks; the product undoes that.
            scale = state.collective.num_ranks / max(1, num_tokens)
            (loss * (scale if work.real else 0.0)).backward()  # type: ignore[no-untyped-call]
            if work.real:
                tallies = add_tallies(tallies, found)
    lr = learning_rate(update, num_steps=stage.num_steps * stage.updates_per_step, config=stage.optimizer)
    norm = optimizer_step(state.optimizer, lr=lr, max_grad_norm=stage.optimizer.max_grad_norm)
    return norm, tallies


def _loss(
    state: PpoState, rows: DeviceRows, experience: Experience, targets: Targets, stage: PpoStage
) -> tuple[Tensor, dict[str, Tally]]:
    """Sum of the losses of a micro-batch's tokens, and metrics."""
    device, at = state.compute.device, rows.tokens.cpu()
    bonus = stage.entropy_coefficient > 0
    output = state.policy(rows, temperature=stage.sampling.temperature, entropy_grad=bonus)
    engine = experience.engine_logprobs[at].to(device)
    old = output.logprobs.detach() if targets.old_logprobs is None else targets.old_logprobs[at].to(device)
    weights, raw = losses.truncated_importance_weights(old, engine, stage.clip.importance_cap)
    loss, found = losses.policy_loss(
        output.logprobs,
        old,
        targets.advantages[at].to(device),
        clip_low=stage.clip.low,
        clip_high=stage.clip.high,
        dual_clip=stage.clip.dual,
        weights=weights,
    )
    tallies = {f"policy/{name.removeprefix('policy_')}": value for name, value in found.items()}
    upper, lower = found["clip_fraction_upper"], found["clip_fraction_lower"]
    # Two shares of the same tokens: adding the tallies would count the tokens twice.
    tallies["policy/clip_fraction"] = Tally(upper.sum + lower.sum, upper.count, torch.maximum(upper.max, lower.max))
    tallies["policy/entropy"] = tally(output.entropy)
    tallies["policy/importance_raw"] = tally(raw)
    tallies["policy/importance"] = tally(weights)
    tallies["policy/engine_difference"] = tally((old - engine).abs())
    if bonus:
        loss = loss + stage.entropy_coefficient * losses.entropy_bonus(output.entropy)[0]
    if stage.kl.place == "loss" and targets.ref_logprobs is not None:
        pull, _ = losses.kl_loss(output.logprobs, targets.ref_logprobs[at].to(device), stage.kl.estimator)
        loss = loss + state.kl.coefficient * pull
    return loss, {name: _to_cpu(value) for name, value in tallies.items()}


def _learn_value(state: PpoState, experience: Experience, targets: Targets, stage: PpoStage) -> dict[str, Tally]:
    if targets.returns is None:
        return {}
    if isinstance(state.critic, RidgeHead):
        assert targets.features is not None
        state.critic.fit(targets.features, targets.returns, state.collective)
        return {}
    assert state.critic is not None
    assert targets.values is not None
    return state.critic.learn(
        experience, targets.values, targets.returns, state.compute, state.collective, step=state.step
    )


def _totals(
    state: PpoState, experience: Experience, num_tokens: int, grad_norm: float, stage: PpoStage
) -> dict[str, float]:
    skipped = int(state.collective.sum(torch.tensor([experience.num_skipped]))[0])
    update = (state.step + 1) * stage.updates_per_step - 1
    lr = learning_rate(update, num_steps=stage.num_steps * stage.updates_per_step, config=stage.optimizer)
    return {
        "kl/coefficient": state.kl.coefficient,
        "policy/grad_norm": grad_norm,
        "policy/lr": lr,
        "reward/skipped": float(skipped),
        "tokens/generated": float(num_tokens),
    }


def _global(statistics: Moments, state: PpoState) -> Moments:
    return Moments.from_tensor(state.collective.sum(statistics.to_tensor()))


def _to_cpu(value: Tally) -> Tally:
    return Tally(value.sum.cpu(), value.count.cpu(), value.max.cpu())
