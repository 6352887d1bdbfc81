"""A checkpoint of a step as a model folder that an engine loads.

A checkpoint holds the weights that were trained, in float32. Put over the model that the stage started from, in the
precision of the recipe, and with adapters added to what they adapt, they are what the policy was at that step.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlft_core.checkpoints.export import is_model
from rlft_core.checkpoints.folder import STATE, sync_folder, write_manifest
from rlft_core.config.recipe import PolicyStage, Recipe
from rlft_core.config.stages import BASE
from rlft_core.errors import CheckpointError
from rlft_core.models.default_model import resolve_model

_WRAPPER = "lm."  # `rlft_core.models.policy.Policy` holds the model under this name
_PEFT = "base_model.model."
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.[^.]+\.weight")


def export_step(recipe: Recipe, stage: str, checkpoint: Path, run_folder: Path, exports: Path) -> Path:
    """The model folder of a complete checkpoint, made once. Raises CheckpointError when it does not fit its start."""
    target = exports / checkpoint.name
    marker = f"{checkpoint.absolute()}:{(checkpoint / 'policy.safetensors').stat().st_mtime_ns}"
    origin = target / "origin.txt"
    if is_model(target) and origin.is_file() and origin.read_text(encoding="utf-8") == marker:
        return target
    start = _start(recipe, stage, checkpoint, run_folder)
    weights = merged(_tensors(start), load_file(checkpoint / "policy.safetensors"), scale=_scale(recipe))
    dtype = torch.bfloat16 if recipe.model.dtype == "bfloat16" else torch.float32
    aside = exports / f".writing-{checkpoint.name}-{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for file in start.iterdir():
        if (
            file.is_file()
            and file.suffix != ".safetensors"
            and not file.name.endswith((".index.json", "manifest.json"))
        ):
            shutil.copy2(file, aside)
    config = json.loads((start / "config.json").read_text(encoding="utf-8")) | {"dtype": recipe.model.dtype}
    (aside / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_file({n: t.to(dtype).contiguous() for n, t in weights.items()}, aside / "model.safetensors", {"format": "pt"})
    (aside / origin.name).write_text(marker, encoding="utf-8")
    write_manifest(aside)
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
    sync_folder(exports)
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


def _start(recipe: Recipe, stage: str, checkpoint: Path, run_folder: Path) -> Path:
    """Where the stage started: what the checkpoint wrote down, or, if the run was moved, the same stage beside it."""
    written = Path(json.loads((checkpoint / STATE).read_text(encoding="utf-8")).get("start", ""))
    config = recipe.stage(stage)
    assert isinstance(config, PolicyStage)
    source = recipe.start_of(config)
    if source != BASE:
        beside = run_folder / "stages" / source / "model"
        if is_model(beside):
            return beside
    if written.name and (written / "config.json").is_file():
        return written
    if source == BASE:
        base = Path(resolve_model(recipe.model.name, trust_remote_code=recipe.model.trust_remote_code))
        if base.is_dir():
            return base
    raise CheckpointError(
        f"{checkpoint} holds what was trained only, and the model it started from ({written or source}) is not there as a "
        "folder; put it back, or serve the stage's result without @"
    )


def _tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as reader:
            found |= {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118 - not a dict
    if not found:
        raise CheckpointError(f"{folder} has no safetensors files to start from")
    return found
