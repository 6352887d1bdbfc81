"""One step of supervised fine-tuning: maximise the likelihood of the output given the input.

The same rows, packing and optimiser as the policy update; the start and the reference of everything after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rlft_core.batching.packing import Sequences, number_tokens
from rlft_core.batching.sharing import Pair, share_beginnings
from rlft_core.config.stages import SftStage
from rlft_core.losses import sft_loss
from rlft_core.models.attention import DeviceRows
from rlft_core.models.compute import Compute
from rlft_core.models.policy import Policy
from rlft_core.updates.collective import Collective
from rlft_core.updates.optimizer import learning_rate, optimizer_step
from rlft_core.updates.passes import collect, micro_batches


@dataclass(slots=True)
class SftState:
    """Everything a step reads and changes."""

    policy: Policy
    optimizer: torch.optim.AdamW
    compute: Compute
    collective: Collective
    step: int = 0

    @property
    def module(self) -> Policy:
        """What is trained and saved first."""
        return self.policy


def sft_update(state: SftState, pairs: Sequence[Pair], stage: SftStage) -> dict[str, float]:
    """One optimiser step on this rank's rows; returns metrics of the whole step, the same on every rank."""
    sequences = as_sequences(pairs, train_on_prompt=stage.train_on_prompt)
    mine = sum(s.num_tokens for s in sequences)
    num_tokens = int(state.collective.sum(torch.tensor([mine]))[0])
    total = torch.zeros((), dtype=torch.float64)
    with state.compute.autocast():
        for work in micro_batches(sequences, state.compute, state.collective):
            loss, _ = sft_loss(state.policy(work.rows).logprobs)
            (loss * (state.collective.num_ranks / num_tokens if work.real else 0.0)).backward()  # type: ignore[no-untyped-call]
            if work.real:
                total += loss.detach().double().cpu()
    lr = learning_rate(state.step, num_steps=stage.num_steps, config=stage.optimizer)
    norm = optimizer_step(state.optimizer, lr=lr, max_grad_norm=stage.optimizer.max_grad_norm)
    state.step += 1
    return {
        "loss/mean": float(state.collective.sum(total)) / num_tokens,
        "policy/grad_norm": norm,
        "policy/lr": lr,
        "tokens/trained": float(num_tokens),
    }


def validation_loss(state: SftState, pairs: Sequence[Pair]) -> float:
    """Mean negative log-likelihood per output token, in nats, over all ranks' rows."""

    def forward(rows: DeviceRows) -> tuple[torch.Tensor, ...]:
        return (state.policy(rows).logprobs,)

    sequences = as_sequences(pairs, train_on_prompt=False)
    count = sum(s.num_tokens for s in sequences)
    found = collect(forward, sequences, count, state.compute, state.collective)
    mine = torch.tensor([-float(found[0].double().sum()), float(count)], dtype=torch.float64)
    total, tokens = state.collective.sum(mine).tolist()
    return float(total / tokens)


def as_sequences(pairs: Sequence[Pair], *, train_on_prompt: bool) -> list[Sequences]:
    """Rows to pack. Training on the prompt makes all but its first token a target; otherwise what prompts share is shared."""
    if train_on_prompt:
        return number_tokens([(prompt[:1], [[*prompt[1:], *output]]) for prompt, output in pairs])
    return share_beginnings(pairs)
