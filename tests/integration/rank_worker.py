"""One rank of a learner without Ray: `python rank_worker.py MODEL OUT STORE RANK NUM_RANKS`. Run by test_ranks.py.

Makes the same five steps for each kind of advantage, on its share of the same made-up samples, and writes its metrics
and, on rank 0, the exported weights' sums.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from rlft_core.batching.sharding import split_evenly
from rlft_core.checkpoints.export import full_weights
from rlft_core.config.model import FreezeConfig
from rlft_core.config.online import PpoStage
from rlft_core.config.stages import RewardModelStage
from rlft_core.kl import FixedKl
from rlft_core.models.compute import Compute
from rlft_core.models.loading import frozen_policy, load_lm, trainable_policy, trainable_reward_model
from rlft_core.models.policy import Critic
from rlft_core.types import Batch, Completion, Prompt, RolloutGroup, Row, Score, ScoredGroup
from rlft_core.updates.collective import Alone, Collective, Ranks
from rlft_core.updates.critics import RidgeHead
from rlft_core.updates.model_critic import ModelCritic
from rlft_core.updates.optimizer import make_optimizer
from rlft_core.updates.ppo import PpoState, ppo_update
from rlft_core.updates.reward import RewardState, reward_update, score_contrasts
from rlft_core.updates.reward_texts import TokenContrast
from services.learner.rank import layers_of, shard
from services.learner.reward_worker import round_to

NUM_STEPS = 5
CPU = torch.device("cpu")
ADVANTAGES: dict[str, dict[str, Any]] = {
    "group": {"type": "rloo"},
    "head": {"type": "gae", "critic": {"type": "head", "ridge": [1.0, 100.0]}},
    "model": {"type": "gae", "critic": {"type": "model", "optimizer": {"lr": 1e-3, "warmup_steps": 0}}},
}


def stage_of(advantage: dict[str, Any]) -> PpoStage:
    return PpoStage.model_validate(
        {
            "num_steps": NUM_STEPS,
            "prompts_per_step": 4,
            "samples_per_prompt": 3,
            "epochs": 2 if advantage["type"] == "gae" else 1,
            "minibatches": 1 if advantage["type"] == "gae" else 2,
            "advantage": advantage,
            "kl": {"coefficient": 0.05},
            "rewards": [{"type": "length", "max": 5}],
            "optimizer": {"lr": 1e-3, "eps": 1e-4, "warmup_steps": 2},
        }
    )


def groups_of(step: int) -> list[ScoredGroup]:
    """Ragged groups; in step 3 everything that the second of two ranks gets was skipped."""
    rng = np.random.default_rng(step)
    groups = []
    for index in range(4):
        prompt = tuple(rng.integers(0, 300, size=rng.integers(2, 9)).tolist())
        completions, scores = [], []
        for _ in range(3):
            ids = rng.integers(0, 300, size=rng.integers(1, 8)).astype(np.int32)
            logprobs, versions = np.full(len(ids), -5.5, np.float32), np.full(len(ids), step, np.int32)
            completions.append(Completion(ids, logprobs, versions, "stop", ""))
            rewards = np.zeros(len(ids), np.float32)
            rewards[-1] = rng.normal()
            skipped = "made_up" if step == 3 and index >= 2 else None
            scores.append(Score(rewards, {"made_up": float(rewards[-1])}, skipped))
        asked = Prompt(Row(f"row-{index}", "", ""), prompt, 3, seed=0)
        groups.append(ScoredGroup(RolloutGroup(asked, tuple(completions)), tuple(scores)))
    return groups


def state_of(model: str, stage: PpoStage, name: str, collective: Collective) -> PpoState:
    policy = trainable_policy(model, attention="dense", freeze=FreezeConfig(), lora=None, gradient_checkpointing=False)
    reference = frozen_policy(model, attention="dense", compute=torch.float32)
    learned: RidgeHead | ModelCritic | None = None
    if name == "head":
        learned = RidgeHead(policy.hidden_size, ridge=(1.0, 100.0), memory=0.98)
    for module in (policy, reference):
        shard(module, collective, CPU, layers_of(module))
    if stage.model_critic is not None:
        backbone = load_lm(model, attention="dense").get_decoder()
        critic = Critic(backbone, policy.hidden_size)
        shard(critic, collective, CPU, list(backbone.layers))
        learned = ModelCritic(critic, stage.model_critic, num_steps=NUM_STEPS, minibatches=stage.minibatches)
    compute = Compute(CPU, torch.float32, "dense", True, 64)
    optimizer = make_optimizer(policy, stage.optimizer)
    return PpoState(policy, optimizer, reference, learned, FixedKl(0.05), compute, collective)


def run(model: str, rank: int, collective: Collective) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, advantage in ADVANTAGES.items():
        stage = stage_of(advantage)
        state = state_of(model, stage, name, collective)
        rows = []
        for step in range(NUM_STEPS):
            mine = split_evenly(groups_of(step), collective.num_ranks)[rank]
            rows.append(ppo_update(state, Batch(tuple(mine), step, collective.num_ranks), stage))
        weights = full_weights(state.policy)  # a collective
        sums = {n: [float(w.double().sum()), float(w.double().square().sum())] for n, w in weights.items()}
        found[name] = {"metrics": rows, "weights": sums}
    for name, keys in REWARD_MODELS.items():
        found[name] = run_reward_model(model, rank, collective, keys)
    return found


REWARD_MODELS: dict[str, dict[str, Any]] = {
    "reward_model": {},
    "token_reward": {"level": "token"},
    "edited_reward": {"level": "token", "loss": "edited"},
    "label_reward": {"level": "token", "loss": "labels"},
}


def contrasts_of(step: int) -> list[TokenContrast]:
    """Four rows with one to three negatives, some tokens marked; a row's texts do not all fit into one micro-batch."""
    rng = np.random.default_rng(100 + step)

    def ids(most: int) -> tuple[int, ...]:
        return tuple(rng.integers(0, 300, size=rng.integers(1, most)).tolist())

    def some(text: Sequence[int]) -> tuple[int, ...]:
        return tuple(np.flatnonzero(rng.random(len(text)) < 0.5).tolist())

    rows = []
    for number in (1, 3, 2, 3):
        prompt, good, bad = ids(12), ids(12), [ids(12) for _ in range(number)]
        changed = tuple((some(good), some(text)) for text in bad)
        rows.append(TokenContrast(prompt, good, tuple(bad), ("a", "b", "c")[:number], changed))
    return rows


def run_reward_model(model: str, rank: int, collective: Collective, keys: dict[str, Any]) -> dict[str, Any]:
    """Five steps of a reward model, its scores afterwards, and its weights rounded as they are for saving."""
    stage = RewardModelStage.model_validate(
        {"num_steps": NUM_STEPS, "batch_rows": 4, "optimizer": {"lr": 1e-3, "eps": 1e-4, "warmup_steps": 2}, **keys}
    )
    module = trainable_reward_model(model, attention="dense", freeze=FreezeConfig(), gradient_checkpointing=False)
    shard(module, collective, CPU, layers_of(module))
    compute = Compute(CPU, torch.float32, "dense", True, 32)
    state = RewardState(module, make_optimizer(module, stage.optimizer), compute, collective)
    rows = []
    for step in range(NUM_STEPS):
        rows.append(reward_update(state, contrasts_of(step)[rank :: collective.num_ranks], stage))
    scores = score_contrasts(state, contrasts_of(NUM_STEPS)[:3], stage)
    round_to(state, torch.bfloat16)
    weights = full_weights(module)
    sums = {n: [float(w.double().sum()), float(w.double().square().sum())] for n, w in weights.items()}
    return {"metrics": rows, "scores": scores, "weights": sums}


def main() -> None:
    model, out, store, rank, num_ranks = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    torch.set_num_threads(1)
    collective: Collective = Alone()
    if num_ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=num_ranks)
        collective = Ranks(CPU)
    (out / f"{num_ranks}-{rank}.json").write_text(json.dumps(run(model, rank, collective)))
    if num_ranks > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
