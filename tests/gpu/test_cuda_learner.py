"""On a GPU: packed rows through FlexAttention give what padded rows give, forward and backward."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rlft_core.batching.packing import Sequences, number_tokens
from rlft_core.models.compute import Compute
from rlft_core.models.loading import load_lm
from rlft_core.models.packable import why_not_packable
from rlft_core.models.policy import Policy
from rlft_core.models.tiny import make_tiny_model
from rlft_core.updates.collective import Alone
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
