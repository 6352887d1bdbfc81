"""An adapter as a folder in PEFT's format: what peft and vLLM load onto the model that it was trained on.

A tuned model's folder holds it beside the merged weights, as `adapter/`; a checkpoint's tensors become one without the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from rlft_core.checkpoints.state import whole
from rlft_core.config.model import LoraConfig
from rlft_core.errors import CheckpointError
from rlft_core.models.policy import Policy

ADAPTER = "adapter"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_WRAPPER, _SIDES = "lm.", (".lora_A.", ".lora_B.")


@dataclass(frozen=True, slots=True)
class Adapter:
    """`weights` under PEFT's names, `config` as PEFT writes it."""

    weights: Mapping[str, Tensor]
    config: Mapping[str, Any]

    @property
    def config_text(self) -> str:
        """The configuration as JSON."""
        plain = {key: sorted(value) if isinstance(value, set) else value for key, value in self.config.items()}
        return json.dumps(plain, default=str, indent=1)

    def write(self, folder: Path, dtype: torch.dtype) -> None:
        """Both files into a folder that is being written."""
        folder.mkdir(parents=True)
        weights = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in self.weights.items()}
        save_file(weights, folder / WEIGHTS, {"format": "pt"})
        (folder / CONFIG).write_text(self.config_text, encoding="utf-8")


def adapter_of(policy: Policy) -> Adapter | None:
    """The adapter that a policy is trained with, if it is with one. A collective when it is sharded."""
    if not policy.has_adapter:
        return None
    from peft import get_peft_model_state_dict

    lm: Any = policy.lm
    weights = {name: whole(tensor).detach() for name, tensor in get_peft_model_state_dict(lm).items()}
    return Adapter(weights, lm.peft_config["default"].to_dict())


def adapter_of_checkpoint(trained: Mapping[str, Tensor], lora: LoraConfig, start: Path) -> Adapter:
    """The adapter in a checkpoint's `policy` tensors. Raises CheckpointError when something else was trained."""
    weights: dict[str, Tensor] = {}
    modules: set[str] = set()
    for name, tensor in trained.items():
        side = next((side for side in _SIDES if side in name), None)
        if side is None:
            raise CheckpointError(f"the checkpoint trained {name}, which is no part of an adapter")
        module = name.removeprefix(_WRAPPER).split(side)[0]
        weights[f"{module}{side}weight"] = tensor
        modules.add(module.rsplit(".", 1)[-1])
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(start),
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted(modules),
        "bias": "none",
        "inference_mode": True,
    }
    return Adapter(weights, config)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds one. Whether it is complete, the manifest of the folder that was written says."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def facts_of(folder: Path) -> tuple[str, int]:
    """The model an adapter was trained on, as its configuration names it, and the adapter's rank."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return str(config.get("base_model_name_or_path") or ""), int(config["r"])
