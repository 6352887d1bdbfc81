"""Supervised steps: the loss is the negative log-likelihood per output token, and it falls."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from rlft_core.batching.sharing import Pair
from rlft_core.config.stages import SftStage
from rlft_core.models.compute import Compute
from rlft_core.models.policy import Policy
from rlft_core.updates.collective import Alone
from rlft_core.updates.optimizer import make_optimizer
from rlft_core.updates.sft import SftState, as_sequences, sft_update, validation_loss


@pytest.fixture
def pairs() -> list[Pair]:
    rng = np.random.default_rng(0)
    return [
        (rng.integers(0, 300, size=n).tolist(), rng.integers(0, 300, size=m).tolist())
        for n, m in ((4, 6), (7, 2), (3, 9))
    ]


def state_of(policy: Policy, stage: SftStage) -> SftState:
    compute = Compute(torch.device("cpu"), torch.float32, "dense", True, 24)
    return SftState(policy, make_optimizer(policy, stage.optimizer), compute, Alone())


def test_loss_is_nats_per_output_token(
    pairs: list[Pair], new_policy: Callable[..., Policy], plain_logprobs: Callable[..., list[float]]
) -> None:
    policy = new_policy()
    outputs = [p for prompt, output in pairs for p in plain_logprobs(policy.lm, prompt, output)]
    everything = [p for prompt, output in pairs for p in plain_logprobs(policy.lm, prompt[:1], [*prompt[1:], *output])]
    stage = SftStage(num_steps=10)
    assert validation_loss(state_of(policy, stage), pairs) == pytest.approx(-sum(outputs) / 17, rel=1e-6)
    metrics = sft_update(state_of(new_policy(), stage), pairs, stage)
    assert metrics["loss/mean"] == pytest.approx(-sum(outputs) / 17, rel=1e-6)
    assert metrics["tokens/trained"] == 17
    assert metrics["policy/lr"] == pytest.approx(5e-6)  # the first of ten warm-up steps to 5e-5
    prompts_too = SftStage(num_steps=10, train_on_prompt=True)
    metrics = sft_update(state_of(new_policy(), prompts_too), pairs, prompts_too)
    assert metrics["loss/mean"] == pytest.approx(-sum(everything) / 28, rel=1e-6)
    assert metrics["tokens/trained"] == 28


@pytest.mark.parametrize("max_row_tokens", [24, 64, 400])
def test_rows_that_begin_alike_are_computed_once_and_change_nothing(
    max_row_tokens: int, new_policy: Callable[..., Policy], plain_logprobs: Callable[..., list[float]]
) -> None:
    """Loss and gradient are those of every row on its own."""
    rng = np.random.default_rng(1)

    def ids(size: int) -> list[int]:
        return rng.integers(0, 300, size=size).tolist()

    tasks = [ids(12), ids(9)]
    rows: list[Pair] = [([*task, *ids(k)], ids(m)) for task in tasks for k, m in ((3, 1), (4, 2), (0, 3), (5, 1))]
    rows.append((ids(8), ids(4)))
    groups = as_sequences(rows, train_on_prompt=False)
    assert [(len(s.prompt), list(s.given)) for s in groups] == [(12, [3, 4, 0, 5]), (9, [3, 4, 0, 5]), (8, [0])]
    stage = SftStage.model_validate({"num_steps": 10, "optimizer": {"max_grad_norm": 1e9}})

    def after(rows: list[Pair], *, packing: bool) -> tuple[dict[str, float], list[torch.Tensor]]:
        policy = new_policy()
        compute = Compute(torch.device("cpu"), torch.float32, "dense", packing, max_row_tokens)
        metrics = sft_update(SftState(policy, make_optimizer(policy, stage.optimizer), compute, Alone()), rows, stage)
        return metrics, [p.detach().clone() for p in policy.parameters()]

    apart = [rows[k] for k in (0, 4, 1, 5, 8, 2, 6, 3, 7)]  # no two of one task are neighbours
    assert all(len(s.completions) == 1 for s in as_sequences(apart, train_on_prompt=False))
    plain = [p for prompt, output in rows for p in plain_logprobs(new_policy().lm, prompt, output)]
    reference, weights = after(apart, packing=False)
    for found, moved in (after(rows, packing=True), after(rows, packing=False)):
        assert found["loss/mean"] == pytest.approx(-sum(plain) / len(plain), rel=1e-6)
        assert found["tokens/trained"] == len(plain) == 18
        assert found["policy/grad_norm"] == pytest.approx(reference["policy/grad_norm"], rel=1e-5)
        for one, other in zip(moved, weights, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_the_loss_falls(pairs: list[Pair], new_policy: Callable[..., Policy]) -> None:
    stage = SftStage.model_validate({"num_steps": 8, "optimizer": {"lr": 1e-2, "warmup_steps": 0}})
    state = state_of(new_policy(), stage)
    losses = [sft_update(state, pairs, stage)["loss/mean"] for _ in range(8)]
    assert state.step == 8
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]


def test_what_is_a_target() -> None:
    pairs: list[Pair] = [([1, 2, 3], [4, 5]), ([6], [7])]
    outputs = as_sequences(pairs, train_on_prompt=False)
    assert [(s.prompt, s.completions, s.first_token) for s in outputs] == [([1, 2, 3], [[4, 5]], 0), ([6], [[7]], 2)]
    everything = as_sequences(pairs, train_on_prompt=True)
    assert [(s.prompt, s.completions, s.first_token) for s in everything] == [([1], [[2, 3, 4, 5]], 0), ([6], [[7]], 4)]
