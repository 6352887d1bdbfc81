"""Rough memory of each kind of process, in bytes, from plain numbers: enough to say "this will not fit" beforehand.

Weights, gradients and optimiser states are exact; activations follow a published estimate; the rest is a round figure
for what a process holds before any weight. Nothing here measures a running process. Imports no torch.
"""

from __future__ import annotations

from rlft_core.models.size import ModelSize

MIB = 1024**2
LEARNER_BASE_BYTES = 600 * MIB
"""Interpreter, torch, transformers and Ray in a learner's process (450 MiB once imported), and their buffers."""
ENGINE_BASE_BYTES = 1200 * MIB
"""The same with vLLM in an engine's."""
SCORER_BASE_BYTES = 500 * MIB
"""The same in a reward actor's."""
_FLOAT32 = 4
_LOGITS_BYTES = 3 * 64 * MIB
_ACTIVATION_BYTES = 34  # per token, layer and hidden unit, in mixed precision: Korthikanti et al. 2022, eq. 1


def learner_bytes(
    size: ModelSize,
    *,
    num_trainable: int,
    num_ranks: int,
    compute_bytes: int,
    num_positions: int,
    checkpointing: bool,
    has_reference: bool,
    has_critic: bool,
) -> int:
    """One rank of a learner. `compute_bytes` is 2 for bfloat16 and 4 for float32 matrix products.

        masters 4 P + gradients 4 T + Adam's moments 8 T, P parameters of which T are trained
        reference  c P (4 P when sharded: a sharded module has one precision throughout)
        critic     16 P
        copies in the compute precision 2 P (bfloat16 only)

    all shared among the ranks, plus activations of the `num_positions` that go through the model together, and a fixed
    amount.
    """
    parameters = size.num_parameters
    states = _FLOAT32 * parameters + 3 * _FLOAT32 * num_trainable
    if has_reference:
        states += (compute_bytes if num_ranks == 1 else _FLOAT32) * parameters
    if has_critic:
        states += 4 * _FLOAT32 * parameters
    if compute_bytes == 2:
        states += 2 * parameters
    return (
        LEARNER_BASE_BYTES
        + states // num_ranks
        + activation_bytes(size, num_positions=num_positions, compute_bytes=compute_bytes, checkpointing=checkpointing)
        + _LOGITS_BYTES
    )


def activation_bytes(size: ModelSize, *, num_positions: int, compute_bytes: int, checkpointing: bool) -> int:
    """Activations kept for the backward pass of s positions: 34 s h bytes a layer in bfloat16 (attention scores are
    never stored); with gradient checkpointing one hidden state a layer, and one layer in full."""
    per_layer = num_positions * size.hidden_size * _ACTIVATION_BYTES * compute_bytes // 2
    if checkpointing:
        return size.num_layers * num_positions * size.hidden_size * compute_bytes + per_layer
    return size.num_layers * per_layer


def engine_bytes(weight_bytes: int, *, kv_cache_bytes: int) -> int:
    """An engine: its share of the weights in its own precision, its key-value cache and a fixed amount."""
    return ENGINE_BASE_BYTES + weight_bytes + kv_cache_bytes


def scorer_bytes(embedding_parameters: int) -> int:
    """A reward actor: a fixed amount, and the embedding model in float32 when a reward needs one."""
    return SCORER_BASE_BYTES + _FLOAT32 * embedding_parameters


def checkpoint_bytes(size: ModelSize, *, num_trainable: int, has_critic: bool) -> int:
    """A learner's saved state: masters, Adam's moments, and the critic's own."""
    own = _FLOAT32 * size.num_parameters + 2 * _FLOAT32 * num_trainable
    return own + (3 * _FLOAT32 * size.num_parameters if has_critic else 0)
