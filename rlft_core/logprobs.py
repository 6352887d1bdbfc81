"""Log-probabilities of given tokens, and the entropy at each position, straight from hidden states.

For a policy of vocabulary V the logits of T tokens are by far the largest tensor of a training step
(T = 4096, V = 150k, float32: 2.3 GiB, and a plain softmax keeps several such tensors for the backward
pass). Here they exist only as blocks of `chunk_tokens` x `chunk_vocab`, in the forward and in the backward
pass; the backward pass computes each block again from the saved log-normaliser.

This file does not sample, does not apply top-k, top-p or penalties, and does not gather sharded weights: a
caller with FSDP passes the full `[V, H]` tensor. It does no masking either: pass the hidden states of the
tokens you want, which is also the cheapest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_BYTES = 64 * 2**20
"""Largest float32 block of logits that the defaults make on an accelerator, in bytes."""

CPU_BLOCK_BYTES = 8 * 2**20
"""The same on a CPU: the passes over a block are bound by memory, and a block of this size stays in the last cache."""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """`logprobs` [T] of the target tokens, `entropy` [T] in nats (None when it was not asked for).

    Both are float32 (float64 for float64 inputs), under autocast too.
    """

    logprobs: Tensor
    entropy: Tensor | None


def default_chunk_vocab(vocab_size: int, device_type: str = "cpu") -> int:
    """Columns of one block of logits: the vocabulary, at most 4096 on a CPU and 8192 elsewhere."""
    return max(1, min(vocab_size, 4096 if device_type == "cpu" else 8192))


def default_chunk_tokens(vocab_size: int, device_type: str = "cpu") -> int:
    """Rows of one block, so that `chunk_tokens * chunk_vocab * 4` bytes stay within the bound above.

    With the default number of columns this is 512 tokens on a CPU and 2048 elsewhere, for any vocabulary of a
    language model.
    """
    block_bytes = CPU_BLOCK_BYTES if device_type == "cpu" else BLOCK_BYTES
    return max(1, block_bytes // (4 * default_chunk_vocab(vocab_size, device_type)))


class _Plan(NamedTuple):
    """How the blocks are cut and in which precision they are computed."""

    temperature: float
    chunk_tokens: int
    chunk_vocab: int
    matmul_dtype: torch.dtype
    with_entropy: bool
    entropy_grad: bool

    @property
    def softmax_dtype(self) -> torch.dtype:
        return torch.float64 if self.matmul_dtype == torch.float64 else torch.float32

    def token_slices(self, num_tokens: int) -> list[slice]:
        return [slice(i, min(i + self.chunk_tokens, num_tokens)) for i in range(0, num_tokens, self.chunk_tokens)]

    def vocab_slices(self, vocab_size: int) -> list[slice]:
        return [slice(i, min(i + self.chunk_vocab, vocab_size)) for i in range(0, vocab_size, self.chunk_vocab)]


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
    chunk_vocab: int | None = None,
    bias: Tensor | None = None,
    with_entropy: bool = True,
    entropy_grad: bool = False,
) -> TokenLogprobs:
    """log pi(target_t | hidden_t) and the entropy of pi(. | hidden_t), for T positions at once.

        z = (hidden @ weight^T + bias) / temperature                     [T, V], never in memory as a whole
        logprobs_t = z[t, target_t] - logsumexp(z[t])
        entropy_t  = logsumexp(z[t]) - sum_v softmax(z[t])_v * z[t, v]

    and, with g the gradient that arrives at the log-probs and h the one that arrives at the entropy,

        d/dz = g * (onehot(target) - p) - h * p * (log p + entropy).

    `hidden` [T, H] and `weight` [V, H] (the output layer, or the tied embedding) may have different dtypes.
    The products run in the autocast dtype where autocast is on, else in the wider of the two; the softmax
    and every sum over blocks run in float32 (float64 for float64 inputs). Only the gradients that are needed are
    computed: a frozen `weight` costs neither time nor memory. `entropy` is detached unless `entropy_grad`.

    Memory besides the inputs: a few blocks of `chunk_tokens * chunk_vocab` float32 (about three, in either pass;
    the defaults bound one at 8 MiB on a CPU and 64 MiB elsewhere, whatever T and V are), one block of the weight in
    the matmul dtype, two [T] vectors kept for the backward pass, and the gradients themselves. So the gradient
    of the weight, [V, H], is the largest tensor there is, and with a frozen weight nothing grows with V but
    V / chunk_vocab numbers for each token.

    `targets` [T] are token ids. Raises ValueError when shapes do not fit, when an id is outside the
    vocabulary, or when the temperature is not positive. Logits must be finite. Second derivatives are not defined.
    """
    _check(hidden, weight, targets, bias, temperature)
    vocab_size = weight.shape[0]
    plan = _Plan(
        temperature=float(temperature),
        chunk_tokens=chunk_tokens or default_chunk_tokens(vocab_size, hidden.device.type),
        chunk_vocab=chunk_vocab or default_chunk_vocab(vocab_size, hidden.device.type),
        matmul_dtype=_matmul_dtype(hidden, weight),
        with_entropy=with_entropy,
        entropy_grad=entropy_grad and with_entropy,
    )
    apply: Callable[..., tuple[Tensor, Tensor]] = _TokenLogprobs.apply
    logprobs, entropy = apply(hidden, weight, bias, targets, plan)
    return TokenLogprobs(logprobs=logprobs, entropy=entropy if with_entropy else None)


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, temperature: float) -> None:
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(f"hidden must be [T, H] and weight [V, H], got {list(hidden.shape)} and {list(weight.shape)}")
    if targets.shape != hidden.shape[:1] or targets.is_floating_point():
        raise ValueError(f"targets must be {hidden.shape[0]} token ids, got {targets.dtype} {list(targets.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be [{weight.shape[0]}], got {list(bias.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if targets.numel() and (int(targets.min()) < 0 or int(targets.max()) >= weight.shape[0]):
        raise ValueError(f"a target token id is outside the vocabulary of {weight.shape[0]}; select tokens beforehand")


def _matmul_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    wider = torch.promote_types(hidden.dtype, weight.dtype)
    device_type = hidden.device.type
    if wider != torch.float64 and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return wider


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, plan: _Plan) -> Tensor:
    """One block z [t, v] in the softmax dtype; the caller owns it and may write into it."""
    block = torch.mm(hidden, weight.t()).to(plan.softmax_dtype)
    if bias is not None:
        block += bias
    if plan.temperature != 1.0:
        block /= plan.temperature
    return block


def _block_statistics(logits: Tensor, with_entropy: bool) -> tuple[Tensor, Tensor]:
    """Of one block, whose content is lost: logsumexp [t] and the mean logit under the block's own softmax [t]."""
    top = logits.amax(dim=-1)
    logits -= top[:, None]
    weights = logits.exp()
    total = weights.sum(dim=-1)
    mean = top
    if with_entropy:
        # A dot product for each row, which does not build the product [t, v].
        mean = torch.linalg.vecdot(weights, logits) / total + top
    return top + total.log(), mean


class _TokenLogprobs(torch.autograd.Function):
    """Blocks of the vocabulary outside, blocks of tokens inside.

    So each part of the weight is cast, and its gradient written, once, however many tokens there are.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, plan: _Plan
    ) -> tuple[Tensor, Tensor]:
        vocab_slices = plan.vocab_slices(weight.shape[0])
        shape = (len(vocab_slices), hidden.shape[0])
        lse = hidden.new_empty(shape, dtype=plan.softmax_dtype)
        mean = torch.empty_like(lse)
        target = torch.zeros_like(lse[0])
        with torch.autocast(hidden.device.type, enabled=False):
            cast_hidden = hidden.to(plan.matmul_dtype)
            for row, columns in enumerate(vocab_slices):
                cast_weight = weight[columns].to(plan.matmul_dtype)
                cast_bias = None if bias is None else bias[columns]
                for tokens in plan.token_slices(hidden.shape[0]):
                    logits = _logits(cast_hidden[tokens], cast_weight, cast_bias, plan)
                    local, inside = _local_ids(targets[tokens], columns)
                    target[tokens] += torch.where(inside, logits.gather(1, local[:, None])[:, 0], 0.0)
                    lse[row, tokens], mean[row, tokens] = _block_statistics(logits, plan.with_entropy)
        # logsumexp and expectation are associative: those of the blocks combine into those of the row.
        total = lse.logsumexp(dim=0)
        logprobs = target - total
        entropy = total - ((lse - total).exp() * mean).sum(dim=0) if plan.with_entropy else torch.zeros_like(total)
        entropy = entropy.clamp_min(0.0)  # rounding may leave -1e-7 for a distribution on one token
        ctx.save_for_backward(hidden, weight, bias, targets, total, entropy)
        ctx.plan = plan
        if not plan.entropy_grad:
            ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logprobs: Tensor, grad_entropy: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        hidden, weight, bias, targets, lse, entropy = ctx.saved_tensors
        plan: _Plan = ctx.plan
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        sum_dtype = plan.softmax_dtype
        grad_hidden = torch.zeros_like(hidden, dtype=sum_dtype) if need_hidden else None
        grad_weight = torch.empty_like(weight) if need_weight else None
        grad_bias = torch.empty_like(bias) if need_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            cast_hidden = hidden.to(plan.matmul_dtype)
            for columns in plan.vocab_slices(weight.shape[0]):
                cast_weight = weight[columns].to(plan.matmul_dtype)
                cast_bias = None if bias is None else bias[columns]
                block_weight = torch.zeros_like(cast_weight, dtype=sum_dtype) if need_weight else None
                block_bias = torch.zeros_like(cast_weight[:, 0], dtype=sum_dtype) if need_bias else None
                for tokens in plan.token_slices(hidden.shape[0]):
                    logits = _logits(cast_hidden[tokens], cast_weight, cast_bias, plan)
                    grads = (grad_logprobs[tokens], grad_entropy[tokens] if plan.entropy_grad else None)
                    block = _grad_logits(logits, targets[tokens], columns, lse[tokens], entropy[tokens], *grads)
                    if plan.temperature != 1.0:
                        block /= plan.temperature
                    if block_bias is not None:
                        block_bias += block.sum(dim=0)
                    cast_block = block.to(plan.matmul_dtype)
                    if grad_hidden is not None:
                        grad_hidden[tokens] += torch.mm(cast_block, cast_weight)
                    if block_weight is not None:
                        block_weight += torch.mm(cast_block.t(), cast_hidden[tokens])
                if grad_weight is not None and block_weight is not None:
                    grad_weight[columns] = block_weight
                if grad_bias is not None and block_bias is not None:
                    grad_bias[columns] = block_bias
        return None if grad_hidden is None else grad_hidden.to(hidden.dtype), grad_weight, grad_bias, None, None


def _local_ids(targets: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Target ids counted from the block's first column, made valid, and whether they really lie in the block."""
    inside = (targets >= columns.start) & (targets < columns.stop)
    return torch.where(inside, targets - columns.start, 0), inside


def _grad_logits(
    logits: Tensor,
    targets: Tensor,
    columns: slice,
    lse: Tensor,
    entropy: Tensor,
    grad_logprobs: Tensor,
    grad_entropy: Tensor | None,
) -> Tensor:
    """d loss / d logits of one block [t, v]; `logits` is used up."""
    logits -= lse[:, None]  # log p
    if grad_entropy is None:
        block = logits.exp_()
        block *= -grad_logprobs[:, None]
    else:
        block = logits.exp()
        logits += entropy[:, None]
        logits *= grad_entropy[:, None]
        logits += grad_logprobs[:, None]
        block *= logits.neg_()
    local, inside = _local_ids(targets, columns)
    onehot = torch.where(inside, grad_logprobs, torch.zeros_like(grad_logprobs))
    return block.scatter_add_(1, local[:, None], onehot[:, None])
