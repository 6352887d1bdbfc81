"""The tiny model is a real one: it loads, its tokenizer loses nothing, and the same seed gives the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlft_core.errors import ModelError
from rlft_core.models.default_model import check_model_folder
from rlft_core.models.tiny import Family, make_tiny_model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", get_args(Family))
def test_every_family_loads_and_computes(family: Family, tied: bool, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "m", family=family, tied=tied)
    assert check_model_folder(folder) == folder
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == family
    ids = tokenizer("a small tool: é {x}", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(ids).logits
    assert logits.shape == (1, ids.shape[1], len(tokenizer))
    assert logits.isfinite().all()
    assert logits.std() > 0.3  # far enough from uniform that a mistake shows
    assert model.config.vocab_size == len(tokenizer)  # nothing the tokenizer says is beyond the embedding
    shared = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert shared is tied
    assert tokenizer.decode(ids[0]) == "a small tool: é {x}"
    assert tokenizer.eos_token_id == model.config.eos_token_id == 0
    assert tokenizer.pad_token_id == 1
    if family != "mamba":
        assert model.config.hidden_size // model.config.num_attention_heads == 32


def test_same_seed_same_weights(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    folders = [make_tiny_model(tmp_path / str(n), seed=seed) for n, seed in enumerate((1, 1, 2))]
    assert torch.equal(torch.random.get_rng_state(), before)
    first, same, other = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(torch.equal(first[name], same[name]) for name in first)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(first[name], other[name])
    assert (folders[0] / "tokenizer.json").read_bytes() == (folders[1] / "tokenizer.json").read_bytes()


def test_options(tmp_path: Path) -> None:
    folder = make_tiny_model(
        tmp_path, vocab=300, hidden=128, heads=4, layers=1, pad_is_eos=True, dtype=torch.bfloat16, context=64,
        texts=["zebra zebra zebra zebra"],
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert len(tokenizer.encode("zebra")) == 1
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert model.config.max_position_embeddings == 64
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


@pytest.mark.parametrize(
    "sizes, part", [({"vocab": 100}, "vocab = 100"), ({"hidden": 65}, "hidden = 65"), ({"heads": 3}, "Try hidden = 96")]
)
def test_sizes_that_do_not_fit(sizes: dict[str, int], part: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        make_tiny_model(tmp_path, **sizes)  # type: ignore[arg-type]
    assert part in str(caught.value)
