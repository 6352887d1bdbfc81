"""A critic with a transformer and an optimiser of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from rlft_core.batching.packing import Sequences
from rlft_core.config.algorithms import ModelCriticConfig
from rlft_core.losses import value_loss
from rlft_core.masking import Tally, add_tallies
from rlft_core.models.attention import DeviceRows
from rlft_core.models.compute import Compute
from rlft_core.models.policy import Critic
from rlft_core.models.reward_model import RewardModel
from rlft_core.updates.collective import Collective
from rlft_core.updates.experience import Experience, select
from rlft_core.updates.optimizer import learning_rate, make_optimizer, optimizer_step
from rlft_core.updates.passes import Work, collect, micro_batches


class ModelCritic:
    """Values from a model that learns beside the policy: clipped value loss, one optimiser step a minibatch.

    When a step is one micro-batch and one update, the pass that predicted the values is the one that is learned from.
    """

    def __init__(
        self, module: Critic | RewardModel, config: ModelCriticConfig, *, num_steps: int, minibatches: int
    ) -> None:
        self.module = module
        self.optimizer = make_optimizer(module, config.optimizer)
        self._config = config
        self._minibatches = minibatches
        self._num_updates = num_steps * config.epochs * minibatches
        self._kept: tuple[Work, Tensor] | None = None

    def values(self, experience: Experience, compute: Compute, collective: Collective) -> Tensor:
        """[T] float32 predictions for samples it has not learned from; `learn` is to follow before the next call."""
        works = list(islice(micro_batches(experience.sequences, compute, collective), 2))
        if len(works) == 1 and self._config.epochs * self._minibatches == 1:
            return self._keep(works[0], experience.num_tokens, compute)

        def forward(rows: DeviceRows) -> tuple[Tensor, ...]:
            return (self.module(rows),)

        return collect(forward, experience.sequences, experience.num_tokens, compute, collective)[0]

    def _keep(self, work: Work, num_tokens: int, compute: Compute) -> Tensor:
        with compute.autocast():
            output = self.module(work.rows)
        self._kept = work, output
        found = torch.zeros(num_tokens)
        if work.real:
            found[work.rows.tokens.cpu()] = output.detach().float().cpu()
        return found

    def learn(
        self,
        experience: Experience,
        values: Tensor,
        returns: Tensor,
        compute: Compute,
        collective: Collective,
        *,
        step: int,
    ) -> dict[str, Tally]:
        """`epochs` x `minibatches` optimiser steps on [T] returns; `values` [T] are those predicted before."""
        tallies: dict[str, Tally] = {}
        for epoch in range(self._config.epochs):
            for part in range(self._minibatches):
                chosen = range(part, len(experience.sequences), self._minibatches)
                update = (step * self._config.epochs + epoch) * self._minibatches + part
                found = self._minibatch(experience, chosen, values, returns, compute, collective, update)
                tallies = add_tallies(tallies, found)
        return tallies

    def _minibatch(
        self,
        experience: Experience,
        chosen: Sequence[int],
        values: Tensor,
        returns: Tensor,
        compute: Compute,
        collective: Collective,
        update: int,
    ) -> dict[str, Tally]:
        mine = int(sum(experience.group_tokens[index] for index in chosen))
        num_tokens = int(collective.sum(torch.tensor([mine]))[0])
        tallies: dict[str, Tally] = {}
        with compute.autocast():
            for work, predicted in self._predicted(select(experience, chosen), compute, collective):
                at = work.rows.tokens.cpu()
                old, target = values[at].to(compute.device), returns[at].to(compute.device)
                loss, found = value_loss(predicted, old, target, clip=self._config.clip)
                scale = collective.num_ranks / max(1, num_tokens) if work.real else 0.0
                (loss * scale).backward()  # type: ignore[no-untyped-call]
                if work.real:
                    named = {f"critic/{name.removeprefix('value_')}": t for name, t in found.items() if name != "value"}
                    on_cpu = {n: Tally(v.sum.cpu(), v.count.cpu(), v.max.cpu()) for n, v in named.items()}
                    tallies = add_tallies(tallies, on_cpu)
        lr = learning_rate(update, num_steps=self._num_updates, config=self._config.optimizer)
        optimizer_step(self.optimizer, lr=lr, max_grad_norm=self._config.optimizer.max_grad_norm)
        return tallies

    def _predicted(
        self, groups: Sequence[Sequences], compute: Compute, collective: Collective
    ) -> Iterator[tuple[Work, Tensor]]:
        """Micro-batches with their values, to be learned from: the kept ones, or computed one after the other."""
        kept, self._kept = self._kept, None
        if kept is not None:
            yield kept
            return
        for work in micro_batches(groups, compute, collective):
            yield work, self.module(work.rows)
