"""A tiny language model with random weights and its own tokenizer, made in a second, for tests.

It is a real model folder in every respect but sense: transformers and vLLM load it, it has a chat template, an EOS
token and a padding token. Heads are 32 wide, the least that vLLM's CPU attention takes. It has learned nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from rlft_core.errors import ModelError

Family = Literal["llama", "qwen2", "qwen3", "mistral", "mamba"]

# Transformers adds "<|endoftext|>" to any tokenizer of the qwen2 family that lacks it, beyond the embedding's rows.
END_TOKEN, PAD_TOKEN, START_TOKEN = "<|end|>", "<|endoftext|>", "<|turn|>"
_MIN_VOCAB = 256 + 3  # every byte, and the three tokens above
_CHAT_TEMPLATE = (
    "{% for message in messages %}" + START_TOKEN + "{{ message['role'] }}\n{{ message['content'] }}" + END_TOKEN
    + "\n{% endfor %}{% if add_generation_prompt %}" + START_TOKEN + "assistant\n{% endif %}"
)  # fmt: skip
_TEXTS = (
    "a small tool that reads a file and prints every line of it to the terminal",
    "the program shows pictures, plays music and writes text in many languages",
    "this is a simple game for one or two players with colours, sounds and levels",
    "a library and a server to store, find and share documents on the network",
)


def make_tiny_model(
    folder: Path,
    *,
    vocab: int = 384,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 2,
    seed: int = 0,
    texts: Iterable[str] | None = None,
    tied: bool = True,
    family: Family = "llama",
    context: int = 512,
    pad_is_eos: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a model folder and return it. The same arguments give the same weights and tokenizer.

    Args:
        vocab: upper limit of the byte-level BPE vocabulary trained on `texts` (default: four short sentences); the
            model's embedding has exactly as many rows as the tokenizer has tokens.
        hidden, heads: width and attention heads; a head is hidden / heads wide, at least 32 for vLLM on CPU.
        tied: whether the output layer shares the embedding's weights.
        family: the architecture; "mamba" is a state-space model without attention (`heads` has no effect).
        context: the longest sequence in tokens.
        pad_is_eos: give padding and EOS the same id, as some models do.

    Raises:
        ModelError: sizes that do not fit together.
    """
    if vocab < _MIN_VOCAB:
        raise ModelError(f"vocab = {vocab} is too small: bytes and special tokens alone are {_MIN_VOCAB}. Raise it.")
    if family != "mamba" and (hidden % heads or (hidden // heads) % 2):
        raise ModelError(f"hidden = {hidden} does not give {heads} heads of an even width. Try hidden = {32 * heads}.")
    tokenizer = _train_tokenizer(_TEXTS if texts is None else texts, vocab=vocab, context=context, one_id=pad_is_eos)
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        tie_word_embeddings=tied,
        initializer_range=0.1,  # the usual 0.02 gives nearly equal probabilities, which hides mistakes
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **_family_sizes(family, hidden=hidden, heads=heads, context=context),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in Path(folder).iterdir():
        path.chmod(0o644)  # weight files are written for one user only
    return Path(folder)


def _family_sizes(family: Family, *, hidden: int, heads: int, context: int) -> dict[str, Any]:
    """The sizes that only this kind of architecture has."""
    if family == "mamba":
        return {"state_size": 8, "residual_in_fp32": True}
    sizes = {
        "intermediate_size": 2 * hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2 if heads % 2 == 0 else heads,
        "max_position_embeddings": context,
    }
    if family != "qwen2":  # which always divides hidden by heads
        sizes["head_dim"] = hidden // heads
    return sizes


def _train_tokenizer(texts: Iterable[str], *, vocab: int, context: int, one_id: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that every text can be encoded and decoded without loss."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_TOKEN, PAD_TOKEN, START_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_TOKEN,
        pad_token=END_TOKEN if one_id else PAD_TOKEN,
        additional_special_tokens=[START_TOKEN],
        model_max_length=context,
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
