"""The policy around a Hugging Face model: log-probs, entropy, hidden states, and the critic's values."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rlft_core.batching.packing import MicroBatch, number_tokens, pack, pad
from rlft_core.config.model import FreezeConfig, LoraConfig
from rlft_core.models.attention import attention_kind, to_device
from rlft_core.models.loading import load_lm, trainable_policy
from rlft_core.models.policy import Critic, Policy
from rlft_core.models.tiny import Family, make_tiny_model

CPU = torch.device("cpu")
PAIRS = [([5, 9, 2, 7], [[11, 3, 8], [4]]), ([1, 6], [[2, 2, 2, 9]])]


def flat(policy: Policy, micros: list[MicroBatch], *, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs, entropy = torch.full((8,), math.nan), torch.full((8,), math.nan)
    with torch.no_grad():
        for micro in micros:
            rows = to_device(micro, CPU, "dense")
            output = policy(rows, temperature=temperature)
            logprobs[rows.tokens], entropy[rows.tokens] = output.logprobs, output.entropy
            assert output.hidden.shape == (len(rows.tokens), policy.hidden_size)
    return logprobs, entropy


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_packed_equals_padded_equals_plain_in_every_family(
    family: Family, tmp_path: Path, plain_logprobs: Callable[..., list[float]]
) -> None:
    folder = make_tiny_model(tmp_path / "m", family=family, tied=family != "qwen2")
    lm = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
    expected = [p for prompt, completions in PAIRS for c in completions for p in plain_logprobs(lm, prompt, c)]
    for micros in (pack(number_tokens(PAIRS), max_tokens=16, multiple=8), pad(number_tokens(PAIRS), max_tokens=16)):
        assert flat(Policy(load_lm(folder, attention="dense")), micros)[0].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_entropy_is_that_of_the_sampled_distribution(tiny_folder: Path, temperature: float) -> None:
    lm = AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation="sdpa").eval()
    with torch.no_grad():
        table = lm(torch.tensor([[1, 6, 2, 2, 2, 9]])).logits[0].double() / temperature
    expected = []
    for position in range(1, 5):
        weights = [math.exp(z) for z in table[position].tolist()]
        expected.append(-sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights))
    _, entropy = flat(
        Policy(load_lm(tiny_folder, attention="dense")),
        pack(number_tokens(PAIRS), max_tokens=64),
        temperature=temperature,
    )
    assert entropy[4:].tolist() == pytest.approx(expected, abs=1e-4)


def test_an_adapter_at_its_start_changes_nothing(tiny_folder: Path) -> None:
    def load(lora: LoraConfig | None) -> Policy:
        return trainable_policy(
            tiny_folder, attention="dense", freeze=FreezeConfig(), lora=lora, gradient_checkpointing=False
        )

    plain, adapted = load(None), load(LoraConfig(rank=2))
    assert not plain.has_adapter
    assert adapted.has_adapter
    assert adapted.hidden_size == plain.hidden_size == 64
    micros = pack(number_tokens(PAIRS), max_tokens=64)
    torch.testing.assert_close(flat(adapted, micros)[0], flat(plain, micros)[0], atol=1e-6, rtol=0)


def test_a_critic_starts_at_zero_and_reads_the_states_that_chose_the_tokens(tiny_folder: Path) -> None:
    lm = AutoModelForCausalLM.from_pretrained(tiny_folder, attn_implementation="sdpa").eval()
    critic = Critic(load_lm(tiny_folder, attention="dense").get_decoder(), 64)
    (micro,) = pack(number_tokens(PAIRS), max_tokens=64)
    rows = to_device(micro, CPU, "dense")
    assert critic(rows).tolist() == [0.0] * 8
    rng = np.random.default_rng(0)
    weight = rng.normal(size=64)
    with torch.no_grad():
        critic.head.weight.copy_(torch.tensor(weight)[None])
        critic.head.bias.fill_(0.5)
        hidden = lm.get_decoder()(torch.tensor([[1, 6, 2, 2, 2, 9]])).last_hidden_state[0, 1:5].double().numpy()
        values = critic(rows)[4:]
    normal = (hidden - hidden.mean(1, keepdims=True)) / np.sqrt(hidden.var(1, keepdims=True) + 1e-5)
    assert values.tolist() == pytest.approx((normal @ weight + 0.5).tolist(), abs=1e-4)


def test_attention_is_chosen_by_device() -> None:
    assert attention_kind(CPU) == "dense"
    assert attention_kind(torch.device("cuda")) == "flex"
