"""What a run leaves: a plain model folder that transformers loads, with the weights that were trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlft_core.checkpoints import export
from rlft_core.checkpoints.adapter import adapter_of, facts_of
from rlft_core.checkpoints.export import full_weights, is_model, write_model
from rlft_core.config.model import FreezeConfig, LoraConfig
from rlft_core.errors import ResourceError
from rlft_core.models.loading import load_tokenizer, trainable_policy
from rlft_core.models.policy import Policy
from rlft_core.models.tiny import make_tiny_model

IDS = torch.tensor([[5, 9, 2, 7, 100, 3]])


@pytest.fixture
def changed(tiny_folder: Path) -> Callable[..., Policy]:
    """The tiny model (or another) with all trained weights moved."""

    def load(lora: LoraConfig | None = None, source: Path = tiny_folder) -> Policy:
        policy = trainable_policy(
            source, attention="dense", freeze=FreezeConfig(), lora=lora, gradient_checkpointing=False
        )
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in policy.parameters():
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        return policy

    return load


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found


@pytest.mark.parametrize("tied", [True, False])
def test_the_folder_loads_with_the_same_logits(tied: bool, changed: Callable[..., Policy], tmp_path: Path) -> None:
    policy = changed(source=make_tiny_model(tmp_path / "start", tied=tied))
    tokenizer = load_tokenizer(tmp_path / "start")
    out = write_model(tmp_path / "out" / "model", policy, full_weights(policy), tokenizer, torch.float32)
    assert is_model(out)
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert model.dtype == torch.float32
    assert torch.equal(logits(model), logits(policy.lm))
    assert not torch.equal(logits(model), logits(AutoModelForCausalLM.from_pretrained(tmp_path / "start")))
    assert AutoTokenizer.from_pretrained(out)("a small tool")["input_ids"] == tokenizer("a small tool")["input_ids"]
    assert not list(tmp_path.glob("out/.writing-*"))
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in out.iterdir())


def test_weights_can_be_written_in_bfloat16(changed: Callable[..., Policy], tiny_folder: Path, tmp_path: Path) -> None:
    policy = changed()
    before = logits(policy.lm)
    out = write_model(tmp_path / "m", policy, full_weights(policy), load_tokenizer(tiny_folder), torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert model.dtype == torch.bfloat16
    expected = {name: p.bfloat16() for name, p in policy.lm.named_parameters()}
    assert all(torch.equal(p, expected[name]) for name, p in model.named_parameters())
    assert torch.equal(logits(policy.lm), before)


def test_adapters_are_merged(changed: Callable[..., Policy], tiny_folder: Path, tmp_path: Path) -> None:
    policy = changed(LoraConfig(rank=4, alpha=6.0))
    weights = full_weights(policy)
    plain = AutoModelForCausalLM.from_pretrained(tiny_folder)
    assert weights.keys() == dict(plain.named_parameters()).keys()
    out = write_model(tmp_path / "m", policy, weights, load_tokenizer(tiny_folder), torch.float32)
    found = logits(AutoModelForCausalLM.from_pretrained(out))
    torch.testing.assert_close(found, logits(policy.lm), atol=1e-5, rtol=0)
    assert float((found - logits(plain)).abs().max()) > 1e-2


def test_the_adapter_stands_beside_what_it_was_merged_into(
    changed: Callable[..., Policy], tiny_folder: Path, tmp_path: Path
) -> None:
    policy = changed(LoraConfig(rank=4, alpha=6.0))
    tokenizer, adapter = load_tokenizer(tiny_folder), adapter_of(policy)
    out = write_model(tmp_path / "m", policy, full_weights(policy), tokenizer, torch.float32, adapter=adapter)
    assert is_model(out)
    assert facts_of(out / "adapter") == (str(tiny_folder), 4)
    beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), out / "adapter")
    assert torch.equal(logits(beside), logits(policy.lm))
    assert AutoModelForCausalLM.from_pretrained(out).config.architectures == ["LlamaForCausalLM"]
    (out / "adapter" / "adapter_model.safetensors").unlink()
    assert not is_model(out)
    assert adapter_of(changed()) is None


def test_a_second_export_replaces_the_first(changed: Callable[..., Policy], tiny_folder: Path, tmp_path: Path) -> None:
    policy, tokenizer = changed(), load_tokenizer(tiny_folder)
    out = write_model(tmp_path / "m", policy, full_weights(policy), tokenizer, torch.float32)
    (out / "of-the-first").touch()
    with torch.no_grad():
        policy.inner.model.norm.weight.fill_(0.5)
    write_model(tmp_path / "m", policy, full_weights(policy), tokenizer, torch.float32)
    assert not (out / "of-the-first").exists()
    assert AutoModelForCausalLM.from_pretrained(out).model.norm.weight.unique().tolist() == [0.5]
    (out / "model.safetensors").unlink()
    assert not is_model(out)


def test_a_full_disk_leaves_the_old_folder(
    changed: Callable[..., Policy], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, tokenizer = changed(), load_tokenizer(tiny_folder)
    weights = full_weights(policy)
    out = write_model(tmp_path / "m", policy, weights, tokenizer, torch.float32)

    def fails(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_manifest", fails)
    with pytest.raises(ResourceError, match="the disk is full while saving"):
        write_model(out, policy, weights, tokenizer, torch.float32)
    assert is_model(out)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
