"""A run that goes on from its checkpoint is, bit for bit, the run that was never interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlft_core.checkpoints import folder
from rlft_core.checkpoints import state as saved
from rlft_core.config.model import FreezeConfig, LoraConfig
from rlft_core.config.training import OptimizerConfig
from rlft_core.errors import CheckpointError
from rlft_core.models.loading import trainable_policy
from rlft_core.models.policy import Policy
from rlft_core.updates.optimizer import make_optimizer, optimizer_step

Load = Callable[..., tuple[Policy, torch.optim.AdamW]]


@pytest.fixture
def load(tiny_folder: Path) -> Load:
    def policy_and_optimizer(
        lora: LoraConfig | None = None, bottom_layers: int = 0
    ) -> tuple[Policy, torch.optim.AdamW]:
        freeze = FreezeConfig(bottom_layers=bottom_layers)
        policy = trainable_policy(
            tiny_folder, attention="dense", freeze=freeze, lora=lora, gradient_checkpointing=False
        )
        return policy, make_optimizer(policy, OptimizerConfig(weight_decay=0.1))

    return policy_and_optimizer


def train(policy: Policy, optimizer: torch.optim.AdamW, steps: range) -> None:
    for step in steps:
        ids = torch.tensor([[5 + step, 9, 2, 7 * step]])
        noise = torch.rand(1, 4, 1)  # from the generator whose state belongs to the checkpoint
        (policy.lm(ids).logits.log_softmax(-1)[..., :50] * noise).mean().neg().backward()
        optimizer_step(optimizer, lr=1e-2, max_grad_norm=1.0)


@pytest.mark.parametrize("keys", [{}, {"bottom_layers": 1}, {"lora": LoraConfig(rank=2)}])
def test_going_on_equals_not_stopping(keys: dict[str, object], load: Load, tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy, optimizer = load(**keys)
    train(policy, optimizer, range(2))
    tensors = {
        "policy": saved.module_tensors(policy),
        "optimizer": saved.optimizer_tensors(policy, optimizer),
        "random": saved.random_state(),
    }
    path = folder.save(tmp_path, 2, tensors=tensors, state={}, keep=1)
    train(policy, optimizer, range(2, 5))

    torch.manual_seed(1)
    again, second = load(**keys)
    found, _ = folder.load(path)
    saved.load_module(again, found["policy"])
    saved.load_optimizer(again, second, found["optimizer"])
    saved.load_random_state(found["random"])
    train(again, second, range(2, 5))
    fresh, _ = load(**keys)
    expected = dict(policy.named_parameters())
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, expected[name]), name
    assert any(not torch.equal(p, expected[name]) for name, p in fresh.named_parameters())


def test_what_an_optimizer_holds_is_put_where_its_parameters_are(load: Load) -> None:
    """Fused AdamW refuses counts that lie elsewhere. The device without memory stands for a GPU."""
    policy, optimizer = load(lora=LoraConfig(rank=2))
    train(policy, optimizer, range(1))
    tensors = saved.optimizer_tensors(policy, optimizer)
    policy.to("meta")
    elsewhere = make_optimizer(policy, OptimizerConfig())
    saved.load_optimizer(policy, elsewhere, tensors)
    held = [value for state in elsewhere.state.values() for value in state.values()]
    assert len(held) == 3 * 28
    assert {value.device.type for value in held} == {"meta"}


def test_only_what_is_trained_is_saved(load: Load) -> None:
    policy, optimizer = load(lora=LoraConfig(rank=2))
    assert saved.optimizer_tensors(policy, optimizer) == {}
    train(policy, optimizer, range(1))
    weights = saved.module_tensors(policy)
    assert len(weights) == 28
    assert all("lora_" in name for name in weights)
    moments = saved.optimizer_tensors(policy, optimizer)
    assert moments.keys() == {f"{key}/{name}" for key in ("step", "exp_avg", "exp_avg_sq") for name in weights}


def test_a_checkpoint_of_another_configuration_is_refused(load: Load) -> None:
    policy, _ = load()
    adapted, _ = load(lora=LoraConfig(rank=2))
    wider, _ = load(lora=LoraConfig(rank=4))
    with pytest.raises(CheckpointError, match="belongs to another configuration: 48 trained parameters differ"):
        saved.load_module(policy, saved.module_tensors(adapted))
    with pytest.raises(CheckpointError, match=r"lora_A.default.weight has shape \[2, 64\], not \[4, 64\]"):
        saved.load_module(wider, saved.module_tensors(adapted))


def test_origin() -> None:
    saved.check_origin({"fingerprint": "abc"}, fingerprint="abc")
    for state in ({"fingerprint": "abd"}, {}):
        with pytest.raises(CheckpointError, match="another recipe or other data"):
            saved.check_origin(state, fingerprint="abc")
