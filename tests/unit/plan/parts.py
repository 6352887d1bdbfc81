"""What the tests of the plan share: a machine, a model folder, rows, a recipe over them."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest

from rlft_core.config.load import parse_recipe
from rlft_core.config.recipe import Recipe
from rlft_core.errors import UserError
from rlft_core.plan import Available, Plan, make_plan

GIB = 1024**3
MIB = 1024**2
LAPTOP = Available(num_cpus=2, num_gpus=0, memory_bytes=16 * GIB, disk_free_bytes=100 * GIB)
SERVER = Available(num_cpus=64, num_gpus=8, memory_bytes=512 * GIB, disk_free_bytes=1000 * GIB)
HIDDEN, LAYERS, VOCAB, HEADS, KV_HEADS, CONTEXT = 64, 3, 100, 4, 2, 1024
LAYER_SHAPES = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "mlp.up_proj": (128, 64)}
LAYER_PARAMETERS = 64 * 64 + 32 * 64 + 128 * 64 + 64


def write_model(folder: Path, **changes: Any) -> Path:
    """A model folder with a real safetensors header and zeros for weights."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        shapes[f"model.layers.{layer}.input_layernorm.weight"] = (HIDDEN,)
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in LAYER_SHAPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    config = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "vocab_size": VOCAB, "num_attention_heads": HEADS}
    config |= {"num_key_value_heads": KV_HEADS, "max_position_embeddings": CONTEXT, **changes}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def write_rows(path: Path, count: int, *, first: int = 0, **changes: Any) -> None:
    rows = [
        {"id": f"r{i}", "family": f"f{i}", "input": f"text {i}", "output": f"answer {i}", "package": f"p{i}", **changes}
        for i in range(first, first + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe_in(base: Path, *overrides: str, **changes: Any) -> Recipe:
    content: dict[str, Any] = {
        "model": {"name": str(base / "model")},
        "data": {"train": "train.jsonl", "test": "test.jsonl"},
        "stages": [
            {"type": "sft", "num_steps": 20},
            {"type": "ppo", "num_steps": 30, "rewards": [{"type": "ends_properly"}]},
            {"type": "evaluate", "systems": {"base": "base", "rl": "ppo"}},
        ],
        **changes,
    }
    return parse_recipe(content, overrides)


def plan_of(base: Path, *overrides: str, available: Available = LAPTOP) -> Plan:
    return make_plan(recipe_in(base, *overrides), base_dir=base, available=available, encode=False)


def refusal(base: Path, *overrides: str, error: type[UserError], available: Available = LAPTOP) -> str:
    with pytest.raises(error) as caught:
        plan_of(base, *overrides, available=available)
    assert type(caught.value) is error
    return str(caught.value)
