"""The body of a PPO learner, run on every rank under Ray Train: its models, and what a checkpoint holds of them.

All arithmetic is in `rlft_core.updates.ppo`, the loop in `online_loop`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rlft_core.checkpoints import state as saved
from rlft_core.config.algorithms import GaeConfig, HeadCriticConfig
from rlft_core.config.online import PpoStage
from rlft_core.kl import AdaptiveKl, FixedKl, KlController, kl_from_state
from rlft_core.models.compute import Compute
from rlft_core.models.loading import critic_from_reward_model, frozen_policy, load_lm
from rlft_core.models.policy import Critic, Policy
from rlft_core.models.reward_model import RewardModel
from rlft_core.updates.critics import RidgeHead
from rlft_core.updates.model_critic import ModelCritic
from rlft_core.updates.optimizer import make_optimizer
from rlft_core.updates.ppo import PpoState, ppo_update
from services.learner.entry import Job
from services.learner.online_loop import serve_updates
from services.learner.rank import choose_compute, layers_of, load_policy, prepare_rank, shard, told_to
from services.learner.saving import Facts, restore


def ppo_body(config: dict[str, Any]) -> None:
    """Ray Train's function. `config` holds the Job, the probe's token ids and the mailbox."""
    job: Job = config["job"]
    with told_to(config["mailbox"]):
        stage = job.recipe.stage(job.stage)
        assert isinstance(stage, PpoStage)
        state, notes = build_state(job, stage)
        resume(state, job)
        serve_updates(
            config, stage, state, notes, lambda batch: ppo_update(state, batch, stage), lambda: beside_policy(state)
        )


def build_state(job: Job, stage: PpoStage) -> tuple[PpoState, tuple[str, ...]]:
    """Models, optimisers and controllers as they are at step 0."""
    recipe = job.recipe
    device, collective = prepare_rank(recipe, stage)
    policy = load_policy(recipe, stage, job.start, device)
    compute, notes = choose_compute(recipe, stage, policy, device)
    reference = None if policy.has_adapter else _reference(job, stage, compute)
    critic = _critic(job, stage, policy, compute)
    for module in (policy, reference):
        if module is not None:
            shard(module, collective, device, layers_of(module))
    if isinstance(critic, nn.Module):
        backbone: Any = critic.backbone
        shard(critic, collective, device, list(backbone.layers))
        assert stage.model_critic is not None
        learned: RidgeHead | ModelCritic | None = ModelCritic(
            critic, stage.model_critic, num_steps=stage.num_steps, minibatches=stage.minibatches
        )
    else:
        learned = critic
    optimizer = make_optimizer(policy, stage.optimizer)
    return PpoState(policy, optimizer, reference, learned, _controller(stage), compute, collective), notes


def resume(state: PpoState, job: Job) -> None:
    """Continue from the newest complete checkpoint, if there is one."""
    found = restore(state, job)
    if found is None:
        return
    tensors, facts = found
    if isinstance(state.critic, RidgeHead):
        state.critic.load_state(tensors["critic"])
    elif state.critic is not None:
        saved.load_module(state.critic.module, tensors["critic"])
        saved.load_optimizer(state.critic.module, state.critic.optimizer, tensors["critic_optimizer"])
    state.kl = kl_from_state(facts["kl"])


def beside_policy(state: PpoState) -> tuple[saved.Tensors, Facts]:
    """What decides the future besides the policy: critic and KL controller. A collective."""
    tensors: saved.Tensors = {}
    if isinstance(state.critic, RidgeHead):
        tensors["critic"] = state.critic.state()
    elif state.critic is not None:
        tensors["critic"] = saved.module_tensors(state.critic.module)
        tensors["critic_optimizer"] = saved.optimizer_tensors(state.critic.module, state.critic.optimizer)
    return tensors, {"kl": state.kl.state()}


def _reference(job: Job, stage: PpoStage, compute: Compute) -> Policy | None:
    head = isinstance(stage.advantage, GaeConfig) and isinstance(stage.advantage.critic, HeadCriticConfig)
    if stage.kl.coefficient == 0 and not head:
        return None
    # A sharded module must have one dtype throughout, so only a whole one is held in the precision of its products.
    rounded = compute.dtype if stage.learner.num_ranks == 1 else torch.float32
    trust = job.recipe.model.trust_remote_code
    reference = frozen_policy(job.start, attention=compute.attention, compute=rounded, trust_remote_code=trust)
    return reference.to(compute.device)


def _critic(job: Job, stage: PpoStage, policy: Policy, compute: Compute) -> RidgeHead | Critic | RewardModel | None:
    if not isinstance(stage.advantage, GaeConfig):
        return None
    config = stage.advantage.critic
    if isinstance(config, HeadCriticConfig):
        return RidgeHead(policy.hidden_size, ridge=config.ridge, memory=config.memory)
    trust = job.recipe.model.trust_remote_code
    if job.critic is not None:
        return critic_from_reward_model(
            job.critic, policy, attention=compute.attention, weight=_weight_of(stage), trust_remote_code=trust
        ).to(compute.device)
    lm = load_lm(job.start, attention=compute.attention, trust_remote_code=trust)
    return Critic(lm.get_decoder(), policy.hidden_size).to(compute.device)


def _weight_of(stage: PpoStage) -> float:
    """By how much the reward models' value counts: the critic's start should predict what it adds to the return."""
    return sum(reward.weight for reward in stage.reward_models) or 1.0


def _controller(stage: PpoStage) -> KlController:
    if stage.kl.adaptive is None:
        return FixedKl(stage.kl.coefficient)
    return AdaptiveKl(stage.kl.coefficient, stage.kl.adaptive.target, stage.kl.adaptive.horizon)
