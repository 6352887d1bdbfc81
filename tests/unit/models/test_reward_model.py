"""Reward models: loading, the padding token, facts, and the critic that starts as one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from rlft_core.batching.packing import number_tokens, pack
from rlft_core.config.model import FreezeConfig
from rlft_core.errors import ModelError
from rlft_core.models.attention import to_device
from rlft_core.models.loading import (
    critic_from_reward_model,
    load_lm,
    trainable_policy,
    trainable_reward_model,
)
from rlft_core.models.reward_model import RewardFacts, load_classifier, with_padding
from rlft_core.models.tiny import Family, make_tiny_model


def saved(folder: Path, source: Path, **facts: float) -> Path:
    """A reward model in a folder, as a stage leaves it."""
    model = trainable_reward_model(source, attention="dense", freeze=FreezeConfig(), gradient_checkpointing=False)
    tokenizer = with_padding(AutoTokenizer.from_pretrained(source), model.inner)
    model.inner.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    RewardFacts(**facts).write(folder)
    return folder


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_decoders_become_reward_models(family: Family, tmp_path: Path) -> None:
    source = make_tiny_model(tmp_path / "m", family=family)
    model = trainable_reward_model(source, attention="dense", freeze=FreezeConfig(), gradient_checkpointing=False)
    assert model.head.out_features == 1
    backbone = load_lm(source, attention="dense").get_decoder()
    for ours, theirs in zip(model.backbone.parameters(), backbone.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_new_head_is_the_same_on_every_rank(tiny_folder: Path) -> None:
    one, two, other = (load_classifier(tiny_folder, attention="dense", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.score.weight, two.score.weight)
    assert not torch.equal(one.score.weight, other.score.weight)


def test_freezing_keeps_the_lower_layers(tiny_folder: Path) -> None:
    freeze = FreezeConfig(embeddings=True, bottom_layers=1)
    model = trainable_reward_model(tiny_folder, attention="dense", freeze=freeze, gradient_checkpointing=False)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert "classifier.score.weight" in trained
    assert not any(".layers.0." in name or "embed_tokens" in name for name in trained)
    assert any(".layers.1." in name for name in trained)


def test_padding_is_never_the_eos(tiny_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.pad_token = tokenizer.eos_token
    classifier = load_classifier(tiny_folder, attention="dense", seed=0)
    with_padding(tokenizer, classifier)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert classifier.config.pad_token_id == tokenizer.pad_token_id


def test_a_folder_that_is_no_reward_model_is_named(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="no reward model that rlft has trained"):
        RewardFacts.read(tiny_folder)


def test_a_critic_starts_as_the_reward_model(tiny_folder: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path / "rm", tiny_folder, mean=0.4, std=2.0)
    policy = trainable_policy(
        tiny_folder, attention="dense", freeze=FreezeConfig(), lora=None, gradient_checkpointing=False
    )
    critic = critic_from_reward_model(folder, policy, attention="dense", weight=3.0)
    (micro,) = pack(number_tokens([([5, 6, 7], [[8, 9, 0]])]), max_tokens=64)
    values = critic(to_device(micro, torch.device("cpu"), "dense"))
    classifier = load_classifier(folder, attention="dense")
    classifier.config.pad_token_id = None
    # The state that predicts the third token has read the first two of the completion.
    score = classifier(input_ids=torch.tensor([[5, 6, 7, 8, 9]])).logits[0, 0]
    assert values[2].item() == pytest.approx(3.0 * (score.item() - 0.4) / 2.0, abs=1e-5)
    assert any(parameter.requires_grad for parameter in critic.parameters())


def test_a_critic_of_another_vocabulary_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    other = make_tiny_model(tmp_path / "other", family="qwen2")
    folder = saved(tmp_path / "rm", other)
    policy = trainable_policy(
        tiny_folder, attention="dense", freeze=FreezeConfig(), lora=None, gradient_checkpointing=False
    )
    if policy.output_layer.weight.shape[0] == load_classifier(folder, attention="dense").config.vocab_size:
        policy.lm.resize_token_embeddings(policy.output_layer.weight.shape[0] + 8)  # type: ignore[operator]
    with pytest.raises(ModelError, match="same tokenizer"):
        critic_from_reward_model(folder, policy, attention="dense", weight=1.0)
