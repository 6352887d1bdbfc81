"""On a GPU: packed rows through FlexAttention give what padded rows give, and training goes on from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rlft_core.batching.packing import Sequences, number_tokens
from rlft_core.checkpoints import state as saved
from rlft_core.config.model import FreezeConfig, LoraConfig
from rlft_core.config.training import OptimizerConfig
from rlft_core.models.compute import Compute
from rlft_core.models.loading import load_lm, trainable_policy
from rlft_core.models.packable import why_not_packable
from rlft_core.models.policy import Policy
from rlft_core.models.tiny import make_tiny_model
from rlft_core.updates.collective import Alone
from rlft_core.updates.optimizer import make_optimizer, optimizer_step
from rlft_core.updates.passes import collect, micro_batches

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CUDA = torch.device("cuda")
NATS_FP32 = 1e-4
NATS_BF16 = 0.05
BUDGET = 512


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder: Path = make_tiny_model(tmp_path_factory.mktemp("model") / "tiny", context=1024)
    return Policy(load_lm(folder, attention="flex").to(CUDA))


def experience() -> list[Sequences]:
    rng = np.random.default_rng(0)

    def ids(length: int) -> list[int]:
        return rng.integers(0, 300, length).tolist()

    shapes = [(150, (20, 31, 7, 64)), (40, (90, 3)), (200, (10,) * 6), (5, (1, 2))]
    return number_tokens([(ids(prompt), [ids(n) for n in completions]) for prompt, completions in shapes])


def compute(dtype: torch.dtype, *, packing: bool) -> Compute:
    return Compute(CUDA, dtype, "flex", packing, BUDGET, 2 * BUDGET)


def logprobs(policy: Policy, dtype: torch.dtype, *, packing: bool) -> torch.Tensor:
    groups = experience()
    count = sum(len(c) for g in groups for c in g.completions)
    how = compute(dtype, packing=packing)
    return collect(lambda rows: (policy(rows).logprobs,), groups, count, how, Alone())[0]


def gradient(policy: Policy, dtype: torch.dtype, *, packing: bool) -> torch.Tensor:
    policy.zero_grad(set_to_none=True)
    how = compute(dtype, packing=packing)
    with how.autocast():
        for work in micro_batches(experience(), how, Alone()):
            values = policy(work.rows).logprobs
            (values * torch.cos(work.rows.tokens.float())).sum().backward()
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


def test_packed_equals_padded_in_float32(policy: Policy) -> None:
    packed, padded = (logprobs(policy, torch.float32, packing=way) for way in (True, False))
    assert float(padded.std()) > 0.1
    assert float((packed - padded).abs().max()) < NATS_FP32


def test_packed_is_near_padded_in_bfloat16(policy: Policy) -> None:
    packed, padded = (logprobs(policy, torch.bfloat16, packing=way) for way in (True, False))
    exact = logprobs(policy, torch.float32, packing=False)
    assert float((packed - padded).abs().mean()) < NATS_BF16
    assert float((packed - exact).abs().mean()) < NATS_BF16
    assert float((packed - exact).abs().max()) > 0.0  # autocast really rounds


def test_gradients_agree_in_float32(policy: Policy) -> None:
    packed, padded = (gradient(policy, torch.float32, packing=way) for way in (True, False))
    assert float(padded.norm()) > 0.0
    assert float((packed - padded).norm() / padded.norm()) < 1e-4


def test_gradients_are_near_in_bfloat16(policy: Policy) -> None:
    packed, padded = (gradient(policy, torch.bfloat16, packing=way) for way in (True, False))
    assert torch.isfinite(packed).all()
    assert float((packed - padded).norm() / padded.norm()) < 0.1


def test_the_model_is_found_packable(policy: Policy) -> None:
    assert why_not_packable(policy, attention="flex", max_row_tokens=BUDGET) is None


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    """Checkpoints are read into the CPU's memory, and fused AdamW takes nothing that lies there."""
    folder = make_tiny_model(tmp_path / "tiny", context=256)

    def start() -> tuple[Policy, torch.optim.AdamW]:
        policy = trainable_policy(
            folder, attention="flex", freeze=FreezeConfig(), lora=LoraConfig(rank=2), gradient_checkpointing=False
        ).to(CUDA)
        return policy, make_optimizer(policy, OptimizerConfig())

    def train(policy: Policy, optimizer: torch.optim.AdamW, steps: range) -> None:
        for step in steps:
            ids = torch.tensor([[5 + step, 9, 2, 7]], device=CUDA)
            policy.lm(ids).logits.log_softmax(-1)[..., :50].mean().neg().backward()
            optimizer_step(optimizer, lr=1e-2, max_grad_norm=1.0)

    policy, optimizer = start()
    train(policy, optimizer, range(2))
    held = saved.module_tensors(policy), saved.optimizer_tensors(policy, optimizer)
    weights, moments = ({name: value.cpu().clone() for name, value in tensors.items()} for tensors in held)
    train(policy, optimizer, range(2, 4))
    again, second = start()
    saved.load_module(again, weights)
    saved.load_optimizer(again, second, moments)
    train(again, second, range(2, 4))
    expected = dict(policy.named_parameters())
    for name, parameter in again.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=0, atol=1e-6)
