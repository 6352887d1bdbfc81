"""A tuned model as a plain Hugging Face folder that transformers and vLLM load.

Adapters are merged into the weights, and stand beside them in a folder `adapter`. Written aside and renamed, with a manifest,
like a checkpoint.
"""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from rlft_core.checkpoints.adapter import ADAPTER, Adapter
from rlft_core.checkpoints.folder import disk_error, is_complete, sync_folder, write_manifest
from rlft_core.checkpoints.state import whole
from rlft_core.models.policy import Policy
from rlft_core.models.reward_model import RewardFacts, RewardModel


def full_weights(model: Policy | RewardModel) -> dict[str, Tensor]:
    """All weights under the names of the plain model, adapters merged. A collective when the model is sharded."""
    deltas = _adapter_deltas(model) if isinstance(model, Policy) else {}
    merged = {name.removesuffix(".weight"): delta for name, delta in deltas.items()}
    weights: dict[str, Tensor] = {}
    for name, parameter in model.inner.named_parameters():
        if "lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        value = whole(parameter).detach()
        delta = merged.get(plain.removesuffix(".weight")) if plain.endswith(".weight") else None
        weights[plain] = value if delta is None else value.float() + delta.float()
    return weights


def write_model(
    folder: Path,
    model: Policy | RewardModel,
    weights: dict[str, Tensor],
    tokenizer: Any,
    dtype: torch.dtype,
    *,
    facts: RewardFacts | None = None,
    adapter: Adapter | None = None,
) -> Path:
    """Write weights, configuration, tokenizer, a reward model's facts, and the adapter that was merged.

    Raises ResourceError when the disk is full.
    """
    aside = folder.parent / f".writing-{folder.name}-{os.getpid()}"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        model.inner.save_pretrained(aside, state_dict={n: w.to("cpu", dtype) for n, w in weights.items()})
        # It has written the precision of the masters into the configuration; loaders go by what stands there.
        config = copy.deepcopy(model.inner.config)
        config.dtype = dtype
        config.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        if facts is not None:
            facts.write(aside)
        if adapter is not None:
            adapter.write(aside / ADAPTER, dtype)
        for file in aside.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)
        write_manifest(aside)
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
        sync_folder(folder.parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise disk_error(error, folder) from error
    return folder


def is_model(folder: Path) -> bool:
    """Was the folder written completely?"""
    return is_complete(folder)


def _adapter_deltas(policy: Policy) -> dict[str, Tensor]:
    if not policy.has_adapter:
        return {}
    from peft.tuners.lora import LoraLayer

    deltas: dict[str, Tensor] = {}
    for name, module in policy.inner.named_modules():
        if isinstance(module, LoraLayer):
            (adapter,) = module.active_adapters
            a, b = whole(module.lora_A[adapter].weight), whole(module.lora_B[adapter].weight)
            deltas[f"{name}.weight"] = (b @ a) * module.scaling[adapter]
    return deltas
