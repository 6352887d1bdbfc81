"""The gradient of a step: against plain autograd over whole logits, and the same however the step is cut."""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlft_core.config.online import PpoStage
from rlft_core.config.stages import SftStage
from rlft_core.models.compute import Compute
from rlft_core.models.policy import Policy
from rlft_core.types import Batch, ScoredGroup
from rlft_core.updates.optimizer import make_optimizer
from rlft_core.updates.ppo import PpoState, ppo_update
from rlft_core.updates.sft import SftState, sft_update

Gradients = dict[str, Tensor]
HEAD = {"type": "gae", "critic": {"type": "head", "ridge": [1.0, 100.0]}}
MODEL = {"type": "gae", "critic": {"type": "model", "optimizer": {"lr": 1e-3, "warmup_steps": 0}}}
ADVANTAGES = [{"type": "rloo"}, {"type": "grpo"}, {"type": "reinforce_pp"}, HEAD, MODEL]


def assert_same(found: Gradients, expected: Gradients, tolerance: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    assert largest > 1e-3  # there is something to compare
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=tolerance * max(1.0, largest), rtol=0.0, msg=name)


def shifted(groups: Sequence[ScoredGroup], offset: float) -> list[ScoredGroup]:
    """The same groups, with the engine's log-probs moved."""
    changed = []
    for g in groups:
        completions = tuple(
            dataclasses.replace(c, logprobs=c.logprobs + np.float32(offset)) for c in g.group.completions
        )
        changed.append(dataclasses.replace(g, group=dataclasses.replace(g.group, completions=completions)))
    return changed


def plain_gradients(
    lm: Any, ref: Any, groups: Sequence[ScoredGroup], *, weight: float, entropy: float, kl: float, kind: str
) -> Gradients:
    """One sequence at a time, whole logits, loops: RLOO without whitening, ratio 1, KL in the loss."""
    loss, num_tokens = torch.zeros((), dtype=torch.float64), 0
    for g in groups:
        totals = [float(s.per_token.sum()) for s in g.scores]
        for k, completion in enumerate(g.group.completions):
            others = [t for i, t in enumerate(totals) if i != k]
            advantage = totals[k] - sum(others) / len(others)
            ids = torch.tensor([[*g.group.prompt.token_ids, *completion.token_ids.tolist()]])
            first = len(g.group.prompt.token_ids) - 1
            table = lm(ids).logits[0].log_softmax(-1)
            with torch.no_grad():
                ref_table = ref(ids).logits[0].log_softmax(-1)
            for t, token in enumerate(completion.token_ids.tolist()):
                logprob, d = table[first + t, token], table[first + t, token] - ref_table[first + t, token]
                penalty = {"k1": d, "k2": d**2 / 2, "k3": torch.exp(-d) - 1 + d}[kind]
                spread = -(table[first + t].exp() * table[first + t]).sum()
                loss = (
                    loss - weight * advantage * torch.exp(logprob - logprob.detach()) - entropy * spread + kl * penalty
                )
                num_tokens += 1
    (loss / num_tokens).backward()
    return {f"lm.{name}": p.grad for name, p in lm.named_parameters()}


@pytest.mark.parametrize(
    "kind, entropy, offset, weight",
    [("k1", 0.0, 0.0, 1.0), ("k2", 0.3, -0.4, 1.4918247), ("k3", 0.3, -3.0, 2.0), ("k3", 0.0, 0.5, 0.60653066)],
)
def test_ppo_gradient_is_that_of_plain_autograd(
    kind: str,
    entropy: float,
    offset: float,
    weight: float,
    new_policy: Callable[..., Policy],
    make_groups: Callable[..., list[ScoredGroup]],
    make_stage: Callable[..., PpoStage],
    make_state: Callable[..., PpoState],
    record_gradients: Callable[[PpoState], list[Gradients]],
) -> None:
    policy = new_policy().double()
    reference = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter *= 1.02
    groups = shifted(make_groups(2, lm=policy.lm), offset)
    kl = {"coefficient": 0.5, "place": "loss", "estimator": kind}
    stage = make_stage(advantage={"type": "rloo", "whiten": False}, entropy_coefficient=entropy, kl=kl)
    expected = plain_gradients(
        copy.deepcopy(policy.lm), reference.lm, groups, weight=weight, entropy=entropy, kl=0.5, kind=kind
    )
    state = make_state(stage, policy, reference=reference)
    gradients = record_gradients(state)
    ppo_update(state, Batch(tuple(groups), 0), stage)
    assert_same(gradients[0], expected)


@pytest.mark.parametrize("advantage", ADVANTAGES, ids=["rloo", "grpo", "reinforce_pp", "head", "model"])
def test_ppo_gradient_does_not_depend_on_rows_or_order(
    advantage: dict[str, object],
    new_policy: Callable[..., Policy],
    make_groups: Callable[..., list[ScoredGroup]],
    make_stage: Callable[..., PpoStage],
    make_state: Callable[..., PpoState],
    record_gradients: Callable[[PpoState], list[Gradients]],
) -> None:
    start = new_policy().double()
    groups = make_groups(4, lm=start.lm)
    stage = make_stage(advantage=advantage, kl={"coefficient": 0.05}, entropy_coefficient=0.1)

    def gradient(order: Sequence[int], **rows: Any) -> Gradients:
        state = make_state(stage, copy.deepcopy(start), **rows)
        gradients = record_gradients(state)
        metrics = ppo_update(state, Batch(tuple(groups[i] for i in order), 0), stage)
        assert all(np.isfinite(value) for value in metrics.values()), metrics
        return gradients[0]

    expected = gradient([0, 1, 2, 3], max_row_tokens=1000)
    for rows in (
        {"max_row_tokens": 16},
        {"max_row_tokens": 40},
        {"packing": False},
        {"packing": False, "max_row_tokens": 1},
    ):
        assert_same(gradient([2, 0, 3, 1], **rows), expected)


class Threads:
    """A collective of threads: values are exchanged through shared slots."""

    def __init__(self, rank: int, slots: list[Any], gate: threading.Barrier) -> None:
        self.rank, self.num_ranks = rank, len(slots)
        self._slots, self._gate = slots, gate

    def sum(self, values: Tensor) -> Tensor:
        return torch.stack(self._exchange(values)).sum(dim=0)

    def max(self, values: Tensor) -> Tensor:
        return torch.stack(self._exchange(values)).amax(dim=0)

    def union(self, names: Sequence[str]) -> list[str]:
        return sorted({name for part in self._exchange(list(names)) for name in part})

    def barrier(self) -> None:
        self._gate.wait()

    def _exchange(self, mine: Any) -> list[Any]:
        self._slots[self.rank] = mine
        self._gate.wait()
        found = list(self._slots)
        self._gate.wait()
        return found


def on_two_ranks(work: Callable[[Threads], Any]) -> list[Any]:
    slots: list[Any] = [None, None]
    gate = threading.Barrier(2, timeout=60)
    with ThreadPoolExecutor(2) as pool:
        return [f.result() for f in [pool.submit(work, Threads(rank, slots, gate)) for rank in range(2)]]


def without_scores(group: ScoredGroup) -> ScoredGroup:
    return dataclasses.replace(group, scores=tuple(dataclasses.replace(s, skipped="made_up") for s in group.scores))


@pytest.mark.parametrize("skipped", [(), (2, 3)], ids=["ragged", "second rank has nothing"])
@pytest.mark.parametrize("advantage", ADVANTAGES, ids=["rloo", "grpo", "reinforce_pp", "head", "model"])
def test_ppo_step_of_two_ranks_is_that_of_one(
    advantage: dict[str, object],
    skipped: tuple[int, ...],
    new_policy: Callable[..., Policy],
    make_groups: Callable[..., list[ScoredGroup]],
    make_stage: Callable[..., PpoStage],
    make_state: Callable[..., PpoState],
    record_gradients: Callable[[PpoState], list[Gradients]],
) -> None:
    start = new_policy().double()
    made = make_groups(4, lm=start.lm)
    groups = [without_scores(g) if i in skipped else g for i, g in enumerate(made)]
    stage = make_stage(advantage=advantage, kl={"coefficient": 0.05}, max_lag=1)

    def update(mine: Sequence[ScoredGroup], **keys: Any) -> tuple[Gradients, dict[str, float]]:
        state = make_state(stage, copy.deepcopy(start), max_row_tokens=16, **keys)
        gradients = record_gradients(state)
        metrics = ppo_update(state, Batch(tuple(mine), 0), stage)
        return (gradients[0] if gradients else {}), metrics

    cut = 2 if skipped else 1
    expected, metrics = update(groups)
    (first, first_metrics), (second, second_metrics) = on_two_ranks(
        lambda ranks: update(groups[:cut] if ranks.rank == 0 else groups[cut:], collective=ranks)
    )
    for row in (metrics, first_metrics, second_metrics):
        # Here a rank knows the norm of its own gradient only; sharded ranks sum it.
        del row["policy/grad_norm"]
    assert first_metrics == second_metrics
    assert first_metrics == pytest.approx(metrics, rel=1e-6, abs=1e-9)
    # Sharded gradients are averaged over the ranks.
    assert_same({name: (first[name] + second[name]) / 2 for name in first}, expected)


def test_sft_gradient_is_that_of_plain_autograd_however_it_is_cut(new_policy: Callable[..., Policy]) -> None:
    start = new_policy().double()
    rng = np.random.default_rng(2)
    pairs = [
        (rng.integers(0, 300, size=n).tolist(), rng.integers(0, 300, size=m).tolist())
        for n, m in ((3, 5), (8, 1), (2, 6))
    ]
    lm = copy.deepcopy(start.lm)
    losses = []
    for prompt, output in pairs:
        table = lm(torch.tensor([[*prompt, *output]])).logits[0].log_softmax(-1)
        losses += [-table[len(prompt) - 1 + t, token] for t, token in enumerate(output)]
    (sum(losses) / len(losses)).backward()
    expected = {f"lm.{name}": p.grad for name, p in lm.named_parameters()}
    stage = SftStage.model_validate({"optimizer": {"max_grad_norm": 1e9, "warmup_steps": 0}})
    for packing, max_row_tokens, order in ((True, 1000, [0, 1, 2]), (True, 8, [2, 0, 1]), (False, 20, [1, 2, 0])):
        policy = copy.deepcopy(start)
        compute = Compute(torch.device("cpu"), torch.float32, "dense", packing, max_row_tokens)

        def update(
            ranks: Threads, policy: Policy = policy, compute: Compute = compute, order: list[int] = order
        ) -> Any:
            mine = copy.deepcopy(policy)
            optimizer = make_optimizer(mine, stage.optimizer)
            seen: Gradients = {}
            optimizer.register_step_pre_hook(
                lambda *_: seen.update({n: p.grad.clone() for n, p in mine.named_parameters()})
            )
            chosen = [pairs[i] for i in (order[:1] if ranks.rank == 0 else order[1:])]
            metrics = sft_update(SftState(mine, optimizer, compute, ranks), chosen, stage)
            return seen, metrics

        (first, metrics), (second, _) = on_two_ranks(update)
        assert_same({name: (first[name] + second[name]) / 2 for name in first}, expected)
        assert metrics["loss/mean"] == pytest.approx(sum(loss.item() for loss in losses) / 12, rel=1e-6)
        assert metrics["tokens/trained"] == 12
