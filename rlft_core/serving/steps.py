"""A checkpoint of a step as a model folder that an engine loads.

A checkpoint holds the weights that were trained, in float32. Put over the model that the stage started from, in the
precision of the recipe, and with adapters added to what they adapt, they are what the policy was at that step. An adapter can
also stay one: then its folder names the model that it was trained on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlft_core.checkpoints.adapter import adapter_of_checkpoint
from rlft_core.checkpoints.export import is_model
from rlft_core.checkpoints.folder import STATE, sync_folder, write_manifest
from rlft_core.config.recipe import PolicyStage, Recipe
from rlft_core.config.stages import BASE
from rlft_core.errors import CheckpointError
from rlft_core.models.default_model import resolve_model

_POLICY = "policy.safetensors"
_WRAPPER = "lm."  # `rlft_core.models.policy.Policy` holds the model under this name
_PEFT = "base_model.model."
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.[^.]+\.weight")


def export_step(recipe: Recipe, stage: str, checkpoint: Path, run_folder: Path, exports: Path) -> Path:
    """The model folder of a complete checkpoint, made once. Raises CheckpointError when it does not fit its start."""

    def write(folder: Path) -> None:
        start = start_of_checkpoint(recipe, stage, checkpoint, run_folder)
        weights = merged(_tensors(start), load_file(checkpoint / _POLICY), scale=_scale(recipe))
        folder.mkdir(parents=True)
        for file in start.iterdir():
            if (
                file.is_file()
                and file.suffix != ".safetensors"
                and not file.name.endswith((".index.json", "manifest.json"))
            ):
                shutil.copy2(file, folder)
        config = json.loads((start / "config.json").read_text(encoding="utf-8")) | {"dtype": recipe.model.dtype}
        (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        plain = {name: tensor.to(_dtype(recipe)).contiguous() for name, tensor in weights.items()}
        save_file(plain, folder / "model.safetensors", {"format": "pt"})

    return _once(exports / checkpoint.name, checkpoint, write)


def export_adapter(recipe: Recipe, stage: str, checkpoint: Path, run_folder: Path, exports: Path) -> Path:
    """The adapter of a complete checkpoint as a folder, made once. Raises CheckpointError when more than one was trained."""

    def write(folder: Path) -> None:
        start = start_of_checkpoint(recipe, stage, checkpoint, run_folder)
        assert recipe.model.lora is not None
        adapter = adapter_of_checkpoint(load_file(checkpoint / _POLICY), recipe.model.lora, start)
        adapter.write(folder, _dtype(recipe))

    return _once(exports / f"{checkpoint.name}-adapter", checkpoint, write)


def _once(target: Path, checkpoint: Path, write: Callable[[Path], None]) -> Path:
    """A complete folder that `write` made of this checkpoint, now or before."""
    marker = f"{checkpoint.absolute()}:{(checkpoint / _POLICY).stat().st_mtime_ns}"
    origin = target / "origin.txt"
    if is_model(target) and origin.is_file() and origin.read_text(encoding="utf-8") == marker:
        return target
    aside = target.with_name(f".writing-{target.name}-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    write(aside)
    (aside / origin.name).write_text(marker, encoding="utf-8")
    write_manifest(aside)
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
    sync_folder(target.parent)
    return target


def merged(start: Mapping[str, Tensor], trained: Mapping[str, Tensor], *, scale: float) -> dict[str, Tensor]:
    """The start's weights under their names, with the trained ones in their places; `scale` is alpha / rank of adapters.

    Raises CheckpointError for a trained weight that the start does not have, or has in another shape.
    """
    found = dict(start)
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in trained.items():
        adapter = _LORA.fullmatch(name)
        if adapter is not None:
            sides.setdefault(f"{_plain(adapter['module'])}.weight", {})[adapter["side"]] = tensor
        else:
            _put(found, _plain(name), tensor)
    for name, both in sides.items():
        old = found.get(name)
        if old is None or set(both) != {"A", "B"}:
            raise CheckpointError(f"the checkpoint adapts {name}, which the model it started from does not have")
        _put(found, name, old.float() + (both["B"].float() @ both["A"].float()) * scale)
    return found


def _put(found: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    old = found.get(name)
    if old is None or old.shape != tensor.shape:
        told = "does not have" if old is None else f"has as {list(old.shape)}, not {list(tensor.shape)}"
        raise CheckpointError(f"the checkpoint trained {name}, which the model it started from {told}")
    found[name] = tensor


def _plain(name: str) -> str:
    return name.removeprefix(_WRAPPER).removeprefix(_PEFT).replace(".base_layer.", ".")


def _scale(recipe: Recipe) -> float:
    return recipe.model.lora.alpha / recipe.model.lora.rank if recipe.model.lora else 1.0


def _dtype(recipe: Recipe) -> torch.dtype:
    return torch.bfloat16 if recipe.model.dtype == "bfloat16" else torch.float32


def start_of_checkpoint(recipe: Recipe, stage: str, checkpoint: Path, run_folder: Path) -> Path:
    """The model from which the stage of a checkpoint started. Raises CheckpointError when it is not there."""
    written = json.loads((checkpoint / STATE).read_text(encoding="utf-8")).get("start", "")
    found = start_of_stage(recipe, stage, written, run_folder)
    if found is None:
        raise CheckpointError(
            f"{checkpoint} holds what was trained only, and the model it started from "
            f"({written or recipe.start_of(policy_stage(recipe, stage))}) is not there as a folder; put it back, or serve the "
            "stage's result without @"
        )
    return found


def start_of_stage(recipe: Recipe, stage: str, written: str, run_folder: Path) -> Path | None:
    """Where a stage started: what was `written` down, or, if the run was moved, the same stage beside it. None: not there."""
    source = recipe.start_of(policy_stage(recipe, stage))
    if source != BASE:
        beside = run_folder / "stages" / source / "model"
        if is_model(beside):
            return beside
    if written and (Path(written) / "config.json").is_file():
        return Path(written)
    if source == BASE:
        base = Path(resolve_model(recipe.model.name, trust_remote_code=recipe.model.trust_remote_code))
        if base.is_dir():
            return base
    return None


def policy_stage(recipe: Recipe, stage: str) -> PolicyStage:
    """A stage that tunes a policy; the caller knows that it is one."""
    config = recipe.stage(stage)
    assert isinstance(config, PolicyStage)
    return config


def _tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as reader:
            found |= {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118 - not a dict
    if not found:
        raise CheckpointError(f"{folder} has no safetensors files to start from")
    return found
