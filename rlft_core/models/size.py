"""How large a model is, read from its config.json and the headers of its safetensors files: no weight is loaded.

A safetensors file begins with 8 bytes, the little-endian length of a JSON header that holds every tensor's name,
dtype and shape. Imports no torch.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlft_core.errors import ModelError

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|embeddings|embedding|embed_in)\.weight$")
_MOST_HEADER_BYTES = 100 * 1024**2


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Numbers of a decoder. `context` is None when the configuration does not bound it.

    `layer_parameters` [layers] counts each layer's; `adapted_widths` is the sum of inputs + outputs over all matrices
    of the layers, so that a LoRA adapter of rank r on all of them has r times as many parameters. `matrix_names` are
    the names of those matrices within a layer, such as `q_proj`.
    """

    num_parameters: int
    embedding_parameters: int
    layer_parameters: tuple[int, ...]
    adapted_widths: int
    matrix_names: frozenset[str]
    hidden_size: int
    vocab_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context: int | None

    @property
    def num_layers(self) -> int:
        """Transformer layers."""
        return len(self.layer_parameters)

    @property
    def kv_values_per_token(self) -> int:
        """Numbers that one token leaves in the key-value cache: keys and values of every layer."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim

    def trainable(self, *, freeze_embeddings: bool = False, bottom_layers: int = 0, lora_rank: int = 0) -> int:
        """Parameters that get gradients; with adapters, those of rank `lora_rank` on all matrices of the layers."""
        if lora_rank:
            return lora_rank * self.adapted_widths
        frozen = sum(self.layer_parameters[:bottom_layers])
        return self.num_parameters - frozen - (self.embedding_parameters if freeze_embeddings else 0)


def model_size(folder: Path) -> ModelSize:
    """The size of the model in a folder.

    Raises:
        ModelError: config.json lacks a number or is none of a language model, or a weight file is damaged.
    """
    config = _text_config(folder / "config.json")
    shapes = _shapes(folder)
    layers: dict[int, int] = {}
    matrices: set[str] = set()
    widths = embedding = 0
    for name, shape in shapes.items():
        match = _LAYER.search(name)
        if match:
            layers[int(match[1])] = layers.get(int(match[1]), 0) + math.prod(shape)
            if len(shape) == 2 and name.endswith(".weight"):
                widths += sum(shape)
                matrices.add(name.removesuffix(".weight").rpartition(".")[2])
        elif _EMBEDDING.search(name):
            embedding += math.prod(shape)
    hidden = _number(config, folder, "hidden_size", "n_embd", "d_model")
    heads = _number(config, folder, "num_attention_heads", "n_head", default=1)
    found_layers = tuple(layers[index] for index in sorted(layers))
    return ModelSize(
        num_parameters=sum(math.prod(shape) for shape in shapes.values()),
        embedding_parameters=embedding,
        layer_parameters=found_layers or (0,) * _number(config, folder, "num_hidden_layers", "n_layer"),
        adapted_widths=widths,
        matrix_names=frozenset(matrices),
        hidden_size=hidden,
        vocab_size=_number(config, folder, "vocab_size"),
        num_heads=heads,
        num_kv_heads=_number(config, folder, "num_key_value_heads", default=heads),
        head_dim=_number(config, folder, "head_dim", default=hidden // heads),
        context=_number(config, folder, "max_position_embeddings", "n_positions", default=0) or None,
    )


def _text_config(path: Path) -> Mapping[str, Any]:
    """A model's configuration; of one with several parts, that of its language model."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}). Copy or save the model again.") from error
    inner = config.get("text_config") if isinstance(config, dict) else None
    found: Mapping[str, Any] = inner if isinstance(inner, dict) else config
    return found


def _number(config: Mapping[str, Any], folder: Path, *names: str, default: int | None = None) -> int:
    for name in names:
        if isinstance(config.get(name), int):
            return int(config[name])
    if default is None:
        raise ModelError(f"{folder}/config.json has no {names[0]}, so it is none of a causal language model.")
    return default


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in a folder's safetensors files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, entry in read_header(path).items():
            if name != "__metadata__":
                shapes[name] = tuple(entry["shape"])
    return shapes


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file. Raises ModelError when the file is damaged or cut short."""
    with path.open("rb") as handle:
        start = handle.read(8)
        num_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else _MOST_HEADER_BYTES + 1
        text = handle.read(num_bytes) if num_bytes <= _MOST_HEADER_BYTES else b""
    try:
        header: dict[str, Any] = json.loads(text)
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{path} is no safetensors file or is damaged. Copy or save the model again.") from error
    wanted = 8 + num_bytes + max(ends, default=0)
    if path.stat().st_size < wanted:
        raise ModelError(
            f"{path} is cut short: {path.stat().st_size} bytes, its header promises {wanted}. Copy the model again."
        )
    return header
