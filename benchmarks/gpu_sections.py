"""The measurements of the GPU benchmark: each takes a `Bench` and returns a plain record."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.gpu_bench import Bench, tell
from benchmarks.gpu_models import LONG, SYNOPSES, Load, ModelSize, amount, forward_flops, make_groups, make_lm
from rlft_core.batching.packing import number_tokens, pack
from rlft_core.config.online import PpoStage
from rlft_core.kl import FixedKl
from rlft_core.models.attention import to_device
from rlft_core.models.compute import Compute
from rlft_core.models.loading import round_matrices
from rlft_core.models.policy import Critic, Policy
from rlft_core.types import Batch, ScoredGroup
from rlft_core.updates.collective import Alone
from rlft_core.updates.experience import Experience, flatten
from rlft_core.updates.model_critic import ModelCritic
from rlft_core.updates.optimizer import make_optimizer
from rlft_core.updates.passes import collect, micro_batches
from rlft_core.updates.ppo import PpoState, ppo_update


def matmul_peak(bench: Bench) -> dict[str, Any]:
    """Dense bfloat16 products of 8192 x 8192 random matrices, in TFLOP/s: what a share of peak is held against."""
    n = 64 if bench.tiny else 8192
    a, b = (torch.randn(n, n, device=bench.device, dtype=torch.bfloat16) for _ in range(2))

    def ten() -> None:
        for _ in range(10):
            a @ b

    return {"size": n, "measured_tflops": 10 * 2 * n**3 / bench.seconds(ten)[1] / 1e12}


def agreement(bench: Bench, size: ModelSize) -> dict[str, Any]:
    """Packed against padded rows: log-probs in both precisions, gradients in float32."""
    size = bench.size(size)
    policy = Policy(make_lm(size, bench.device, bench.kind))
    load = bench.load(dataclasses.replace(LONG, groups=3, samples=6, prompt=200))
    experience = flatten(make_groups(load, size))
    found: dict[str, Any] = {"tokens": experience.num_tokens}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        both = [_logprobs(bench, policy, experience, packing=way, dtype=dtype) for way in (True, False)]
        difference = (both[0] - both[1]).abs()
        found |= {f"logprob_{name}_mean": float(difference.mean()), f"logprob_{name}_max": float(difference.max())}
        if name == "fp32":
            exact = both[1]
        else:
            found["logprob_bf16_to_fp32_mean"] = float((both[0] - exact).abs().mean())
    found["logprob_mean"] = float(exact.mean())
    packed, padded = (_gradient(bench, policy, experience, packing=way) for way in (True, False))
    found["gradient_relative_difference"] = float((packed - padded).norm() / padded.norm())
    found["gradient_max_difference"] = float((packed - padded).abs().max())
    found["gradient_max"] = float(padded.abs().max())
    return found


def _logprobs(
    bench: Bench, policy: Policy, experience: Experience, *, packing: bool, dtype: torch.dtype
) -> torch.Tensor:
    compute = bench.compute(4096, packing=packing, dtype=dtype)
    return collect(
        lambda rows: (policy(rows).logprobs,), experience.sequences, experience.num_tokens, compute, Alone()
    )[0]


def _gradient(bench: Bench, policy: Policy, experience: Experience, *, packing: bool) -> torch.Tensor:
    policy.zero_grad(set_to_none=True)
    forward_backward(policy, experience, bench.compute(4096, packing=packing, dtype=torch.float32))
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


def forward_backward(policy: Policy, experience: Experience, compute: Compute) -> None:
    """The loss pass: every micro-batch forward and backward, gradients added up. The loss is a weighted likelihood."""
    weights = torch.linspace(-1.0, 1.0, experience.num_tokens, device=compute.device)
    with compute.autocast():
        for work in micro_batches(experience.sequences, compute, Alone()):
            loss = (policy(work.rows).logprobs * weights[work.rows.tokens]).sum() / experience.num_tokens
            loss.backward()  # type: ignore[no-untyped-call]


def throughput(
    bench: Bench,
    size: ModelSize,
    load: Load,
    budgets: Sequence[tuple[int, int]],
    *,
    checkpointing: bool = False,
    ways: Sequence[bool] = (True, False),
) -> list[dict[str, Any]]:
    """Forward and backward over one experience, packed and padded, for several (row, batch) budgets in tokens."""
    size, load = bench.size(size), bench.load(load)
    policy = Policy(make_lm(size, bench.device, bench.kind))
    if checkpointing:
        policy.lm.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        policy.lm.train()
    experience = flatten(make_groups(load, size))
    found = []
    for row_tokens, batch_tokens in budgets:
        # Padded rows are stacked up to the larger budget anyway.
        for packing in [way for way in ways if way or not batch_tokens]:
            compute = bench.compute(row_tokens, packing=packing, batch_tokens=batch_tokens)
            record: dict[str, Any] = {"row_tokens": row_tokens, "batch_tokens": batch_tokens}
            record["rows"] = "packed" if packing else "padded"
            try:
                record |= _throughput(bench, size, policy, experience, compute)
            except torch.OutOfMemoryError as error:
                record["out_of_memory"] = str(error).splitlines()[0][:120]
            policy.zero_grad(set_to_none=True)
            found.append(record)
            tell(record)
    return found


def _throughput(
    bench: Bench, size: ModelSize, policy: Policy, experience: Experience, compute: Compute
) -> dict[str, Any]:
    micros = compute.rows(experience.sequences)
    work = amount(micros, experience.sequences)
    first, seconds, peak = bench.seconds(lambda: forward_backward(policy, experience, compute))
    flops = 3 * forward_flops(size, policy, work)
    return {
        "micro_batches": len(micros),
        "positions": work.positions,
        "computed_positions": sum(micro.num_positions for micro in micros),
        "completion_tokens": work.targets,
        "first_s": first,
        "seconds": seconds,
        "positions_per_s": work.positions / seconds,
        "completion_tokens_per_s": work.targets / seconds,
        "model_tflops": flops / seconds / 1e12,
        "share_of_peak": flops / seconds / bench.peak_flops,
        "peak_gib": peak,
    }


def whole_update(bench: Bench, size: ModelSize, load: Load, budget: int) -> list[dict[str, Any]]:
    """`ppo_update` with a frozen reference and a critic of its own, packed and padded; AdamW included."""
    size, load = bench.size(size), bench.load(load)
    groups = make_groups(load, size)
    found = []
    for packing in (True, False):
        record: dict[str, Any] = {"row_tokens": budget, "rows": "packed" if packing else "padded"}
        try:
            record |= _whole_update(bench, size, groups, bench.compute(budget, packing=packing))
        except torch.OutOfMemoryError as error:
            record["out_of_memory"] = str(error).splitlines()[0][:120]
        found.append(record)
        tell(record)
    return found


def _whole_update(bench: Bench, size: ModelSize, groups: Sequence[ScoredGroup], compute: Compute) -> dict[str, Any]:
    stage = PpoStage.model_validate(
        {
            "num_steps": 1000,
            "advantage": {"type": "gae", "critic": {"type": "model"}},
            "kl": {"coefficient": 0.05},
            "rewards": [{"type": "ends_properly"}],
        }
    )
    policy = Policy(make_lm(size, bench.device, bench.kind))
    frozen = make_lm(size, bench.device, bench.kind).requires_grad_(False)
    round_matrices(frozen, compute.dtype)
    critic = Critic(make_lm(size, bench.device, bench.kind, seed=1).get_decoder(), size.hidden).to(bench.device)
    assert stage.model_critic is not None
    learned = ModelCritic(critic, stage.model_critic, num_steps=1000, minibatches=1)
    optimizer = make_optimizer(policy, stage.optimizer)
    state = PpoState(policy, optimizer, Policy(frozen), learned, FixedKl(0.05), compute, Alone())
    first, seconds, peak = bench.seconds(lambda: ppo_update(state, Batch(tuple(groups), state.step), stage))
    experience = flatten(groups)
    work = amount(compute.rows(experience.sequences), experience.sequences)
    # Policy forward and backward, reference forward; critic forward, and again forward and backward.
    flops = 4 * forward_flops(size, policy, work) + 4 * forward_flops(size, policy, work, with_output_layer=False)
    return {
        "samples": len(experience.lengths),
        "completion_tokens": work.targets,
        "first_s": first,
        "seconds": seconds,
        "samples_per_s": len(experience.lengths) / seconds,
        "completion_tokens_per_s": work.targets / seconds,
        "share_of_peak": flops / seconds / bench.peak_flops,
        "peak_gib": peak,
    }


def masks(bench: Bench, lengths: Sequence[int]) -> list[dict[str, Any]]:
    """Making a row's mask, without a model: its seconds and the memory that stands only while it is made."""
    found = []
    for length in lengths[:1] if bench.tiny else lengths:
        completions = [[1] * 256] * ((length - 512) // 256)
        (micro,) = pack(number_tokens([([1] * 512, completions)]), max_tokens=length, multiple=128)
        _, seconds, peak = bench.seconds(lambda micro=micro: to_device(micro, bench.device, bench.kind))  # type: ignore[misc]
        found.append({"row_tokens": micro.input_ids.shape[1], "seconds": seconds, "peak_gib": peak})
    return found


def row_lengths(bench: Bench, size: ModelSize) -> list[dict[str, Any]]:
    """First and second pass at a dozen row lengths: shows whether every new length is compiled again."""
    size = bench.size(size)
    policy = Policy(make_lm(size, bench.device, bench.kind))
    rows = []
    for blocks in (3, 5, 4, 9, 7, 12, 17, 15, 24, 33):
        load = Load(1, 2, blocks * 64 - 20, 10, 10) if not bench.tiny else bench.load(SYNOPSES)
        experience = flatten(make_groups(load, size))
        compute = bench.compute(8192, packing=True)
        first, later, _ = bench.seconds(lambda e=experience, c=compute: forward_backward(policy, e, c))  # type: ignore[misc]
        length = compute.rows(experience.sequences)[0].num_positions
        rows.append({"row_tokens": length, "first_s": first, "later_s": later})
    return rows
