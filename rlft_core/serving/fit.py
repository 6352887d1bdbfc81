"""Whether a model folder can take another's place in a running engine: the same network, the same tokenizer.

Read from the folders' headers, without loading a weight, so that a promote is refused before anybody waits for it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from rlft_core.errors import CheckpointError
from rlft_core.serving.types import Checkpoint

# What says how texts become tokens and turns: an engine reads them once, when it starts.
_TEXT_FILES = ("tokenizer.json", "chat_template.jinja")
# What may differ between two folders of one network.
_NOT_THE_NETWORK = {"_name_or_path", "_model_name_or_path", "transformers_version", "use_cache", "architectures"}


def check_fit(new: Checkpoint, served: Checkpoint, *, max_rank: int = 0) -> None:
    """Raises CheckpointError naming the first thing in which they differ. `max_rank`: for how large an adapter there is room."""
    if new.kind != served.kind:
        raise CheckpointError(f"{new.label} is a {new.kind} model and {served.label} a {served.kind} model")
    if new.base or served.base:
        told = _other_adapter(new, served, max_rank)
    else:
        told = _difference(Path(new.folder), Path(served.folder))
    if told is None and new.dtype != served.dtype:
        told = f"its precision is {new.dtype}, not {served.dtype}"
    if told is not None:
        raise CheckpointError(
            f"{new.label} cannot take the place of {served.label}: {told}. Serve it under a name of its own: "
            f"rlft serve {new.label} --name OTHER"
        )


def num_weight_bytes(folder: Path) -> int:
    """Bytes of a model's weights."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _other_adapter(new: Checkpoint, served: Checkpoint, max_rank: int) -> str | None:
    if new.base != served.base:
        mine, theirs = (f"an adapter of {one.base}" if one.base else "a whole model" for one in (new, served))
        return f"it is {mine}, not {theirs}"
    if new.rank > max_rank:
        return f"its rank is {new.rank}, and the engine has room for {max_rank}"
    return None


def _difference(new: Path, served: Path) -> str | None:
    mine, theirs = _config(new), _config(served)
    for key in sorted(mine.keys() | theirs.keys()):
        if mine.get(key) != theirs.get(key):
            return f"its {key} is {mine.get(key)!r:.80}, not {theirs.get(key)!r:.80}"
    for name in _TEXT_FILES:
        if _digest(new / name) != _digest(served / name):
            return f"its {name} is another one, so it reads other tokens"
    shapes, wanted = _shapes(new), _shapes(served)
    for name in sorted(shapes.keys() | wanted.keys()):
        if shapes.get(name) != wanted.get(name):
            return f"its weight {name} has the shape {shapes.get(name)}, not {wanted.get(name)}"
    return None


def _config(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if key not in _NOT_THE_NETWORK}


def _digest(file: Path) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def _shapes(folder: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as reader:
            found |= {name: reader.get_slice(name).get_shape() for name in reader.keys()}  # noqa: SIM118 - not a dict
    return found
