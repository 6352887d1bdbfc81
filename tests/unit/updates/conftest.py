"""Made-up scored groups, and the state that an update works on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlft_core.config.algorithms import GaeConfig, HeadCriticConfig
from rlft_core.config.model import FreezeConfig, LoraConfig
from rlft_core.config.online import PpoStage
from rlft_core.kl import FixedKl
from rlft_core.models.compute import Compute
from rlft_core.models.loading import trainable_policy
from rlft_core.models.policy import Critic, Policy
from rlft_core.types import Completion, Prompt, RolloutGroup, Row, Score, ScoredGroup
from rlft_core.updates.collective import Alone, Collective
from rlft_core.updates.critics import RidgeHead
from rlft_core.updates.model_critic import ModelCritic
from rlft_core.updates.optimizer import make_optimizer
from rlft_core.updates.ppo import PpoState

VOCABULARY = 300


@pytest.fixture
def new_policy(tiny_folder: Path) -> Callable[..., Policy]:
    """(lora) -> the tiny model, to be trained."""

    def load(lora: LoraConfig | None = None) -> Policy:
        return trainable_policy(
            tiny_folder, attention="dense", freeze=FreezeConfig(), lora=lora, gradient_checkpointing=False
        )

    return load


@pytest.fixture
def make_stage() -> Callable[..., PpoStage]:
    """Keys of a PPO stage -> the stage, with a constant learning rate and unclipped gradients unless said otherwise."""

    def make(**keys: Any) -> PpoStage:
        plain = {"lr": 1e-2, "warmup_steps": 0, "schedule": "constant", "max_grad_norm": 1e9, "eps": 1e-3}
        keys["optimizer"] = plain | keys.get("optimizer", {})
        keys.setdefault("kl", {"coefficient": 0.0})
        return PpoStage.model_validate({"rewards": [{"type": "length", "max": 5}], "prompts_per_step": 4, **keys})

    return make


@pytest.fixture
def make_groups(plain_logprobs: Callable[..., list[float]]) -> Callable[..., list[ScoredGroup]]:
    """Random groups with one reward for each completion; the engine's log-probs are those of `lm`, if given."""

    def make(
        num_groups: int = 4, num_samples: int = 3, *, seed: int = 0, lm: Any = None, temperature: float = 1.0
    ) -> list[ScoredGroup]:
        rng = np.random.default_rng(seed)
        return [one(rng, index, num_samples, lm, temperature) for index in range(num_groups)]

    def one(rng: np.random.Generator, index: int, num_samples: int, lm: Any, temperature: float) -> ScoredGroup:
        prompt = tuple(rng.integers(0, VOCABULARY, size=rng.integers(2, 9)).tolist())
        completions, scores = [], []
        for _ in range(num_samples):
            ids = rng.integers(0, VOCABULARY, size=rng.integers(1, 8)).astype(np.int32)
            logprobs = [-1.0] * len(ids) if lm is None else plain_logprobs(lm, prompt, ids.tolist(), temperature)
            versions = np.zeros(len(ids), np.int32)
            completions.append(Completion(ids, np.array(logprobs, np.float32), versions, "stop", ""))
            per_token = np.zeros(len(ids), np.float32)
            per_token[-1] = rng.normal()
            scores.append(Score(per_token, {"made_up": float(per_token[-1])}))
        row = Row(f"row-{index}", "", "")
        return ScoredGroup(
            RolloutGroup(Prompt(row, prompt, num_samples, seed=index), tuple(completions)), tuple(scores)
        )

    return make


@pytest.fixture
def make_state() -> Callable[..., PpoState]:
    """(stage, policy, ...) -> a state at step 0 whose reference is a copy of the policy, or none with an adapter."""

    def make(
        stage: PpoStage,
        policy: Policy,
        *,
        packing: bool = True,
        max_row_tokens: int = 64,
        reference: Policy | None = None,
        collective: Collective | None = None,
    ) -> PpoState:
        if reference is None and not policy.has_adapter:
            reference = copy.deepcopy(policy)
        if reference is not None:
            reference.requires_grad_(False)
        return PpoState(
            policy=policy,
            optimizer=make_optimizer(policy, stage.optimizer),
            reference=reference,
            critic=make_critic(stage, policy),
            kl=FixedKl(stage.kl.coefficient),
            compute=Compute(torch.device("cpu"), torch.float32, "dense", packing, max_row_tokens),
            collective=Alone() if collective is None else collective,
        )

    return make


def make_critic(stage: PpoStage, policy: Policy) -> RidgeHead | ModelCritic | None:
    if not isinstance(stage.advantage, GaeConfig):
        return None
    config = stage.advantage.critic
    if isinstance(config, HeadCriticConfig):
        return RidgeHead(policy.hidden_size, ridge=config.ridge, memory=config.memory)
    critic = Critic(copy.deepcopy(policy.backbone), policy.hidden_size)
    return ModelCritic(critic, config, num_steps=stage.num_steps, minibatches=stage.minibatches)


@pytest.fixture
def record_gradients() -> Callable[[PpoState], list[dict[str, torch.Tensor]]]:
    """(state) -> a list to which every optimiser step of the policy adds its gradients by name."""

    def record(state: PpoState) -> list[dict[str, torch.Tensor]]:
        seen: list[dict[str, torch.Tensor]] = []

        def look(*_: object) -> None:
            named = state.policy.named_parameters()
            seen.append({name: p.grad.clone() for name, p in named if p.grad is not None})

        state.optimizer.register_step_pre_hook(look)
        return seen

    return record
