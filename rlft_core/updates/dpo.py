"""One step of direct preference optimisation: the preferred text of each pair must gain on the other, against a reference.

The same texts, packing and checkpoints as a reward model's step. The loss needs the log-probs of two whole texts at once; where
a budget splits a pair they are computed first, and each micro-batch gets the derivative by its own log-probs, so neither packing
nor micro-batches nor ranks can change the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from rlft_core.batching.packing import Sequences, number_tokens
from rlft_core.config.algorithms import PreferenceConfig
from rlft_core.config.online import OnlineDpoStage
from rlft_core.config.stages import DpoStage
from rlft_core.losses import preference_loss
from rlft_core.models.attention import DeviceRows
from rlft_core.models.compute import Compute
from rlft_core.models.policy import Policy
from rlft_core.updates.collective import Collective
from rlft_core.updates.optimizer import learning_rate, optimizer_step
from rlft_core.updates.passes import Work, collect, micro_batches, without_adapter
from rlft_core.updates.reward_texts import TokenContrast


@dataclass(slots=True)
class DpoState:
    """Everything a step reads and changes. `reference` is None when the adapter is switched off instead."""

    policy: Policy
    optimizer: torch.optim.AdamW
    reference: Policy | None
    compute: Compute
    collective: Collective
    step: int = 0

    @property
    def module(self) -> Policy:
        """What is trained and saved first."""
        return self.policy


@dataclass(frozen=True, slots=True)
class _Pairs:
    """All C texts of some contrasts: `owner` [T] says whose each token is; pair n is text `good[n]` against `bad[n]`."""

    sequences: list[Sequences]
    owner: Tensor
    good: Tensor
    bad: Tensor

    @property
    def num_tokens(self) -> int:
        return len(self.owner)

    def by_text(self, values: Tensor) -> Tensor:
        """[T] -> [C] sums over each text's tokens, float64."""
        num_texts = int(self.owner.max()) + 1 if len(self.owner) else 0
        return torch.zeros(num_texts, dtype=torch.float64).index_add(0, self.owner, values.double())


def dpo_update(
    state: DpoState, contrasts: Sequence[TokenContrast], stage: DpoStage | OnlineDpoStage
) -> dict[str, float]:
    """One optimiser step on this rank's pairs; returns metrics of the whole step, the same on every rank.

    The loss is the sum over pairs divided by the number of pairs on all ranks.
    """
    pairs = _pairs_of(contrasts)
    num_pairs = int(state.collective.sum(torch.tensor([len(pairs.good)]))[0])
    reference = reference_logprobs(state, pairs)
    works = list(micro_batches(pairs.sequences, state.compute, state.collective))
    split = _any_split(works, pairs, state.collective)
    logprobs = _logprobs(state.policy, pairs, state) if split else torch.zeros(pairs.num_tokens)
    with state.compute.autocast():
        for work in works:
            found = state.policy(work.rows).logprobs
            here = work.rows.tokens.cpu()
            if not split:
                logprobs[here] = found.detach().float().cpu()
            pull = _gradient(logprobs, reference, pairs, stage.preference)[here].to(found.device)
            scale = state.collective.num_ranks / max(1, num_pairs) if work.real else 0.0
            ((found * pull).sum() * scale).backward()  # type: ignore[no-untyped-call]
    lr = learning_rate(state.step, num_steps=stage.num_steps, config=stage.optimizer)
    norm = optimizer_step(state.optimizer, lr=lr, max_grad_norm=stage.optimizer.max_grad_norm)
    state.step += 1
    ratios = pairs.by_text(logprobs - reference)
    margins = ratios[pairs.good] - ratios[pairs.bad]
    sums = torch.stack(
        [
            _losses(logprobs, reference, pairs, stage.preference).sum(),
            (margins > 0).double().sum(),
            margins.sum(),
            ratios[pairs.good].sum(),
            ratios[pairs.bad].sum(),
        ]
    )
    loss, right, margin, chosen, rejected = (state.collective.sum(sums) / max(1, num_pairs)).tolist()
    return {
        "loss/mean": loss,
        "pairs/accuracy": right,
        "pairs/gap": margin,
        "pairs/chosen": chosen,
        "pairs/rejected": rejected,
        "pairs/count": float(num_pairs),
        "policy/grad_norm": norm,
        "policy/lr": lr,
    }


def margins_of(state: DpoState, contrasts: Sequence[TokenContrast]) -> list[float]:
    """By how many nats the preferred text of each pair has gained on the other, on this rank's contrasts. A collective."""
    pairs = _pairs_of(contrasts)
    logprobs, reference = _logprobs(state.policy, pairs, state), reference_logprobs(state, pairs)
    ratios = pairs.by_text(logprobs - reference)
    found: list[float] = (ratios[pairs.good] - ratios[pairs.bad]).tolist()
    return found


def reference_logprobs(state: DpoState, pairs: _Pairs) -> Tensor:
    """[T] float32 log-probs of the model that training started from. A collective."""
    reference = state.reference or state.policy
    with without_adapter(reference.lm, active=state.reference is None):
        return _logprobs(reference, pairs, state)


def _logprobs(policy: Policy, pairs: _Pairs, state: DpoState) -> Tensor:
    def forward(rows: DeviceRows) -> tuple[Tensor, ...]:
        return (policy(rows).logprobs,)

    found = collect(forward, pairs.sequences, pairs.num_tokens, state.compute, state.collective)
    return found[0] if found else torch.zeros(0)


def _pairs_of(contrasts: Sequence[TokenContrast]) -> _Pairs:
    groups = [(c.prompt, [c.positive, *c.negatives]) for c in contrasts]
    lengths = torch.tensor([len(text) for _, texts in groups for text in texts], dtype=torch.int64)
    firsts = [0, *accumulate(len(texts) for _, texts in groups)]
    good = [first for first, c in zip(firsts, contrasts, strict=False) for _ in c.negatives]
    bad = [first + 1 + k for first, c in zip(firsts, contrasts, strict=False) for k in range(len(c.negatives))]
    return _Pairs(
        number_tokens(groups),
        torch.repeat_interleave(torch.arange(len(lengths)), lengths),
        torch.tensor(good, dtype=torch.int64),
        torch.tensor(bad, dtype=torch.int64),
    )


def _any_split(works: Sequence[Work], pairs: _Pairs, collective: Collective) -> bool:
    """Does any pair, on any rank, have its two texts in different micro-batches?"""
    place = torch.full((int(pairs.owner.max()) + 1 if len(pairs.owner) else 0,), -1, dtype=torch.int64)
    for index, work in enumerate(works):
        place[pairs.owner[work.rows.tokens.cpu()]] = index
    split = bool((place[pairs.good] != place[pairs.bad]).any())
    return bool(collective.max(torch.tensor([int(split)]))[0])


def _losses(logprobs: Tensor, reference: Tensor, pairs: _Pairs, config: PreferenceConfig) -> Tensor:
    """[N] loss of each pair, float64."""
    ratios = pairs.by_text(logprobs - reference)
    return preference_loss(
        ratios[pairs.good],
        ratios[pairs.bad],
        beta=config.beta,
        kind=config.loss,
        label_smoothing=config.label_smoothing,
    )


def _gradient(logprobs: Tensor, reference: Tensor, pairs: _Pairs, config: PreferenceConfig) -> Tensor:
    """[T] derivative of the summed loss by each log-prob. One that is not known yet touches its own pairs only."""
    leaf = logprobs.detach().clone().requires_grad_(True)
    with torch.autocast("cpu", enabled=False):
        (found,) = torch.autograd.grad(_losses(leaf, reference, pairs, config).sum(), leaf)
    return found.float()
