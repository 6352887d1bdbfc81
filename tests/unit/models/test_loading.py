"""What is trained, what is frozen and in which precision; and models that are not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlft_core.batching.packing import number_tokens, pack
from rlft_core.config.model import FreezeConfig, LoraConfig
from rlft_core.errors import ConfigError, ModelError
from rlft_core.models.attention import to_device
from rlft_core.models.loading import frozen_policy, load_lm, load_tokenizer, trainable_policy
from rlft_core.models.policy import Policy


@pytest.fixture
def load(tiny_folder: Path) -> Callable[..., Policy]:
    def trainable(**keys: Any) -> Policy:
        defaults = {"attention": "dense", "freeze": FreezeConfig(), "lora": None, "gradient_checkpointing": False}
        return trainable_policy(tiny_folder, **(defaults | keys))

    return trainable


def trained(policy: Policy) -> set[str]:
    return {name for name, p in policy.named_parameters() if p.requires_grad}


def test_everything_is_trained_in_float32_and_in_evaluation_mode(load: Callable[..., Policy]) -> None:
    policy = load()
    assert all(p.requires_grad and p.dtype == torch.float32 for p in policy.parameters())
    assert not any(module.training for module in policy.lm.modules())


def test_frozen_layers(load: Callable[..., Policy]) -> None:
    everything = trained(load())
    top = trained(load(freeze=FreezeConfig(bottom_layers=1)))
    assert everything - top == {name for name in everything if ".layers.0." in name}
    assert len(everything - top) == 9
    no_embedding = trained(load(freeze=FreezeConfig(embeddings=True)))
    assert everything - no_embedding == {"lm.model.embed_tokens.weight"}


def test_freezing_more_layers_than_there_are(load: Callable[..., Policy]) -> None:
    with pytest.raises(
        ConfigError, match=r"learner.freeze.bottom_layers is 3, but the model has 2 layers; use at most 2"
    ):
        load(freeze=FreezeConfig(bottom_layers=3))


def test_adapters_alone_are_trained_and_are_the_same_for_one_seed(load: Callable[..., Policy]) -> None:
    lora = LoraConfig(rank=4, alpha=6.0, target_modules=("q_proj", "v_proj"))
    first, second, other = load(lora=lora), load(lora=lora), load(lora=lora, seed=1)
    assert len(trained(first)) == 2 * 2 * 2
    assert all("lora_" in name for name in trained(first))
    pairs = list(zip(first.parameters(), second.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q, _ in pairs)
    assert not all(torch.equal(p, r) for p, _, r in pairs)


def test_an_adapters_scale_need_not_be_a_whole_number(load: Callable[..., Policy]) -> None:
    policy = load(lora=LoraConfig(rank=4, alpha=0.5, target_modules=("q_proj",)))
    layer = policy.inner.model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == 0.125


def test_an_adapter_for_no_layer(load: Callable[..., Policy]) -> None:
    with pytest.raises(ConfigError, match=r"model.lora.target_modules \['nothing'\] fits no layer"):
        load(lora=LoraConfig(target_modules=("nothing",)))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_adapters_dropout_acts_only_where_gradients_are_computed(
    checkpointing: bool, load: Callable[..., Policy]
) -> None:
    ids = torch.tensor([[5, 9, 2, 7]])
    plain, dropping = (
        load(lora=LoraConfig(rank=4, dropout=dropout), gradient_checkpointing=checkpointing) for dropout in (0.0, 0.5)
    )
    for policy in (plain, dropping):  # an adapter starts as nothing, with or without dropout
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(parameter, 0.01)
    with torch.no_grad():
        expected = plain.lm(ids).logits
        assert all(torch.equal(dropping.lm(ids).logits, expected) for _ in range(2))
    torch.manual_seed(0)
    drawn = [dropping.lm(ids).logits.detach() for _ in range(2)]
    assert all(not torch.equal(logits, expected) for logits in drawn)
    assert not torch.equal(*drawn)


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)])
def test_gradient_checkpointing_changes_no_gradient(lora: LoraConfig | None, load: Callable[..., Policy]) -> None:
    (micro,) = pack(number_tokens([([5, 9, 2], [[1, 4], [8]])]), max_tokens=64)
    gradients = []
    for checkpointing in (False, True):
        policy = load(gradient_checkpointing=checkpointing, lora=lora)
        policy(to_device(micro, torch.device("cpu"), "dense")).logprobs.sum().backward()
        gradients.append({name: p.grad for name, p in policy.named_parameters() if p.grad is not None})
        assert policy.inner.is_gradient_checkpointing is checkpointing
    assert len(gradients[0]) == (20 if lora is None else 28)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=0)


def test_a_reference_holds_its_matrices_in_the_compute_precision(tiny_folder: Path) -> None:
    reference = frozen_policy(tiny_folder, attention="dense", compute=torch.bfloat16)
    dtypes = {name: p.dtype for name, p in reference.named_parameters()}
    assert not trained(reference)
    assert dtypes["lm.model.layers.0.mlp.up_proj.weight"] == torch.bfloat16
    assert dtypes["lm.model.norm.weight"] == torch.float32
    assert dtypes["lm.model.embed_tokens.weight"] == torch.float32  # the output layer shares it
    # Under autocast the same numbers as with float32 masters, which autocast rounds at every use.
    whole = frozen_policy(tiny_folder, attention="dense", compute=torch.float32)
    (micro,) = pack(number_tokens([([5, 9, 2], [[1, 4], [8]])]), max_tokens=64)
    rows = to_device(micro, torch.device("cpu"), "dense")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(reference(rows).logprobs, whole(rows).logprobs)


def test_models_and_tokenizers_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="could not be loaded as a causal language model"):
        load_lm(tmp_path, attention="dense")
    with pytest.raises(ModelError, match="has no usable tokenizer"):
        load_tokenizer(tmp_path)


def test_tokenizer(tiny_folder: Path) -> None:
    assert load_tokenizer(tiny_folder).eos_token_id == 0
