"""The system and the readable one-file algorithm learn the same weights from the same samples."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from rlft_core.config.online import PpoStage
from rlft_core.models.policy import Policy
from rlft_core.types import Batch, ScoredGroup
from rlft_core.updates.ppo import PpoState, ppo_update

SCRIPT = Path(__file__).resolve().parents[3] / "examples" / "ppo_in_one_file.py"


@pytest.fixture(scope="module")
def one_file() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ppo_in_one_file", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_four_steps_give_the_same_weights(
    one_file: ModuleType,
    new_policy: Callable[..., Policy],
    make_groups: Callable[..., list[ScoredGroup]],
    make_stage: Callable[..., PpoStage],
    make_state: Callable[..., PpoState],
) -> None:
    start = new_policy()
    with torch.no_grad():
        reference = copy.deepcopy(start)
        for parameter in reference.parameters():
            parameter *= 1.01
    optimizer_keys = {"lr": 2e-3, "betas": (0.9, 0.99), "eps": 1e-3, "max_grad_norm": 1.0}
    clip = 0.02
    stage = make_stage(
        epochs=2,
        advantage={"type": "rloo"},
        kl={"coefficient": 0.2},
        clip={"low": clip, "high": clip},
        optimizer=optimizer_keys,
    )
    state = make_state(stage, copy.deepcopy(start), packing=True, max_row_tokens=48, reference=reference)
    settings = one_file.Settings(
        samples_per_prompt=3, epochs=2, clip=clip, kl_coefficient=0.2, learning_rate=2e-3, max_grad_norm=1.0
    )
    lm = copy.deepcopy(start.lm)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=2e-3, betas=(0.9, 0.99), eps=1e-3, weight_decay=0.0)
    for step in range(4):
        # Sampled from the weights of this step, as a strictly on-policy run does.
        groups = make_groups(3, 3, seed=step, lm=lm)
        samples = [
            one_file.Sample(list(g.group.prompt.token_ids), c.token_ids.tolist(), s.total)
            for g in groups
            for c, s in zip(g.group.completions, g.scores, strict=True)
        ]
        theirs = one_file.update(lm, reference.lm, optimizer, samples, settings)
        ours = ppo_update(state, Batch(tuple(groups), step), stage)
        assert ours["policy/clip_fraction"] > 0.05
        assert ours["policy/clip_fraction"] == pytest.approx(theirs["clipped"], abs=1e-6)
        assert ours["reward/mean"] == pytest.approx(theirs["reward"], abs=1e-5)
        assert ours["kl/per_sample"] == pytest.approx(theirs["kl"], abs=1e-4)
        assert abs(theirs["kl"]) > 1e-3
        for (name, mine), other in zip(state.policy.lm.named_parameters(), lm.parameters(), strict=True):
            torch.testing.assert_close(mine, other, atol=1e-6, rtol=0.0, msg=f"step {step}: {name}")
    pairs = zip(lm.parameters(), start.lm.parameters(), strict=True)
    assert max(float((p - q).detach().abs().max()) for p, q in pairs) > 1e-3


def test_the_other_direction_would_show(
    one_file: ModuleType, new_policy: Callable[..., Policy], make_groups: Callable[..., list[ScoredGroup]]
) -> None:
    """Steps on one batch make what was rewarded likelier: the sign that both implementations could share."""
    start = new_policy()
    groups = make_groups(2, 3, lm=start.lm)
    samples = [
        one_file.Sample(list(g.group.prompt.token_ids), c.token_ids.tolist(), float(index == 0))
        for g in groups
        for index, c in enumerate(g.group.completions)
    ]
    batch = one_file.to_batch(samples, device=torch.device("cpu"))
    settings = dataclasses.replace(one_file.Settings(), samples_per_prompt=3)
    lm = copy.deepcopy(start.lm)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-3)
    with torch.no_grad():
        before = (one_file.token_logprobs(lm, batch) * batch.is_answer).sum(dim=1).tolist()
    for _ in range(3):
        one_file.update(lm, start.lm, optimizer, samples, settings)
    with torch.no_grad():
        after = (one_file.token_logprobs(lm, batch) * batch.is_answer).sum(dim=1).tolist()
    gains = np.array(after) - np.array(before)
    assert gains[[0, 3]].min() > 0.1
    assert gains[[0, 3]].min() > gains[[1, 2, 4, 5]].max()
