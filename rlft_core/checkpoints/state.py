"""What of a learner goes into a checkpoint: trained weights, optimiser moments, critic, KL coefficient, random state.

Frozen weights are not saved: they are those of the model that the stage started from, which the checkpoint names. All
ranks call these functions together, because sharded tensors are gathered; rank 0 writes. A checkpoint holds whole
tensors, so it can be resumed with another number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from rlft_core.errors import CheckpointError
from rlft_core.updates.optimizer import trainable

Tensors = dict[str, dict[str, Tensor]]


def whole(tensor: Tensor) -> Tensor:
    """A tensor as it is without sharding. A collective when it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The trained parameters by name."""
    return {name: whole(p).detach() for name, p in _at_rest(module)}


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """AdamW's moments and step counts, `<moment>/<parameter>`; empty before the first step."""
    found: dict[str, Tensor] = {}
    for name, parameter in _at_rest(module):
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"{key}/{name}"] = whole(value).detach()
    return found


def load_module(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `module_tensors`. Raises CheckpointError when the names or shapes are not those of this module."""
    expected = dict(_at_rest(module))
    if expected.keys() != tensors.keys():
        odd = sorted(expected.keys() ^ tensors.keys())
        raise CheckpointError(
            f"the checkpoint belongs to another configuration: {len(odd)} trained parameters differ, the first is {odd[0]}; "
            "use the recipe that wrote it, or another run name"
        )
    with torch.no_grad():
        for name, parameter in expected.items():
            if parameter.shape != tensors[name].shape:
                raise CheckpointError(
                    f"the checkpoint's {name} has shape {list(tensors[name].shape)}, not {list(parameter.shape)}"
                )
            parameter.copy_(_like(tensors[name], parameter))


def load_optimizer(module: nn.Module, optimizer: torch.optim.AdamW, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`."""
    for name, parameter in _at_rest(module):
        state = {}
        for key in ("step", "exp_avg", "exp_avg_sq"):
            stored = tensors.get(f"{key}/{name}")
            if stored is not None:
                # A fused step counts on the parameter's device, and refuses a count that lies on another.
                counted = key == "step"
                state[key] = stored.to(parameter.device, copy=True) if counted else _like(stored, parameter).clone()
        if state:
            optimizer.state[parameter] = state


def random_state() -> dict[str, Tensor]:
    """The state of torch's CPU generator: nothing draws from it today but adapters with dropout."""
    return {"cpu": torch.get_rng_state()}


def load_random_state(tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `random_state`."""
    torch.set_rng_state(tensors["cpu"])


def check_origin(state: Mapping[str, Any], *, fingerprint: str) -> None:
    """Raise CheckpointError when a checkpoint was written for other inputs."""
    if state.get("fingerprint") != fingerprint:
        raise CheckpointError(
            "the checkpoint was written with another recipe or other data; use another run name or --fresh"
        )


def _at_rest(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """The trained parameters that the optimiser knows.

    A sharded module leaves some of its weights whole after a pass without gradient, in tensors of which the optimiser
    knows nothing: they are put back first.
    """
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    return trainable(module)


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    if isinstance(parameter, DTensor):
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value.to(parameter.device)
