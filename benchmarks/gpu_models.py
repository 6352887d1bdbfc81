"""Models with random weights, experience with random tokens, and the work they mean: what the GPU benchmark runs on.

Nothing is downloaded: a model is made from sizes, on its device. What is computed does not depend on the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from rlft_core.batching.packing import PAD_SEGMENT, MicroBatch, Sequences
from rlft_core.models.attention import AttentionKind
from rlft_core.models.flex import FLEX_ATTENTION
from rlft_core.models.policy import Policy
from rlft_core.types import Completion, Prompt, RolloutGroup, Row, Score, ScoredGroup


@dataclass(frozen=True, slots=True)
class ModelSize:
    """A Llama-shaped model; embeddings are tied."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    init: float = 0.02


SMALL = ModelSize("SmolLM2-135M", 576, 30, 9, 3, 1536, 49152, init=0.05)
LARGE = ModelSize("1.5B", 2048, 24, 16, 4, 6144, 151936)
TINY = ModelSize("tiny", 64, 2, 2, 1, 128, 384, init=0.1)


@dataclass(frozen=True, slots=True)
class Load:
    """An experience: `groups` prompts of `prompt` tokens, `samples` completions of `shortest` to `longest` tokens."""

    groups: int
    samples: int
    prompt: int
    shortest: int
    longest: int


SYNOPSES = Load(groups=8, samples=8, prompt=104, shortest=5, longest=15)
LONG = Load(groups=16, samples=16, prompt=512, shortest=128, longest=384)


def make_lm(size: ModelSize, device: torch.device, kind: AttentionKind, *, seed: int = 0) -> Any:
    """A causal LM in float32 on its device, in evaluation mode."""
    config = LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        intermediate_size=size.intermediate,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        initializer_range=size.init,
    )
    torch.manual_seed(seed)
    with device:
        attention = FLEX_ATTENTION if kind == "flex" else "sdpa"
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
    return model.to(device).eval()


def make_groups(load: Load, size: ModelSize, *, seed: int = 0) -> list[ScoredGroup]:
    """Scored groups of random tokens with random rewards; engine log-probs are those of a uniform distribution."""
    rng = np.random.default_rng(seed)
    groups = []
    for number in range(load.groups):
        lengths = rng.integers(load.shortest, load.longest + 1, load.samples)
        prompt = tuple(rng.integers(0, size.vocab, load.prompt).tolist())
        completions = tuple(_completion(rng.integers(0, size.vocab, length), size.vocab) for length in lengths)
        group = RolloutGroup(Prompt(Row(str(number), "", ""), prompt, load.samples, number), completions)
        groups.append(ScoredGroup(group, tuple(_score(int(n), float(rng.normal())) for n in lengths)))
    return groups


def _completion(token_ids: np.ndarray, vocab: int) -> Completion:
    logprobs = np.full(len(token_ids), -np.log(vocab), dtype=np.float32)
    return Completion(token_ids.astype(np.int32), logprobs, np.zeros(len(token_ids), dtype=np.int32), "stop", "")


def _score(num_tokens: int, value: float) -> Score:
    per_token = np.zeros(num_tokens, dtype=np.float32)
    per_token[-1] = value
    return Score(per_token, {"random": value})


@dataclass(frozen=True, slots=True)
class Amount:
    """What one forward pass over some rows is: real positions, predicted tokens, pairs that attend to each other."""

    positions: int
    targets: int
    pairs: int


def amount(micros: Sequence[MicroBatch], sequences: Sequence[Sequences]) -> Amount:
    """Padding is not counted, though it may be computed."""
    targets = sum(len(micro.targets) for micro in micros)
    if micros[0].group is None:
        lengths = [len(s.prompt) + len(c) for s in sequences for c in s.completions]
        return Amount(sum(lengths), targets, sum(n * (n + 1) // 2 for n in lengths))
    positions = pairs = 0
    for groups, branches in ((g, b) for m in micros for g, b in zip(_rows(m.group), _rows(m.branch), strict=True)):
        real = groups != PAD_SEGMENT
        group, branch = groups[real], branches[real]
        positions += len(group)
        for number in range(int(group.max()) + 1):
            counts = np.bincount(branch[group == number])
            prompt, completions = int(counts[0]), counts[1:].astype(int)
            pairs += prompt * (prompt + 1) // 2
            pairs += int((completions * prompt + completions * (completions + 1) // 2).sum())
    return Amount(positions, targets, pairs)


def _rows(array: np.ndarray | None) -> np.ndarray:
    assert array is not None, "rows are all packed or all padded"
    return array


def forward_flops(size: ModelSize, policy: Policy, work: Amount, *, with_output_layer: bool = True) -> float:
    """Floating-point operations of a forward pass; a backward pass is twice that.

        2 N positions + 2 V H targets + 4 D pairs layers

    N weights of the layers' matrices, V x H the output layer (computed for predicted tokens only), D the width of all
    query heads together. What is computed a second time to save memory is not counted.
    """
    matrices = sum(p.numel() for name, p in policy.backbone.named_parameters() if "layers." in name and p.dim() == 2)
    attention = 4.0 * size.hidden * work.pairs * size.layers
    output = 2.0 * size.vocab * size.hidden * work.targets if with_output_layer else 0.0
    return 2.0 * matrices * work.positions + output + attention
