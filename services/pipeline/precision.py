"""What `model.dtype: auto` means for a run. Looks at its folder and this machine, and changes neither.

    begun before? what it began with ─▶ else: a cluster that is joined, a GPU, AVX-512? bfloat16 ─▶ else float32

Of a cluster that is joined the processors are not known here; such clusters have GPUs. Name the precision where yours has none.
"""

from __future__ import annotations

import json
from pathlib import Path

from rlft_core.config.recipe import Recipe


def with_precision(recipe: Recipe, *, runs_dir: Path, quick: bool) -> Recipe:
    """The recipe with a definite `model.dtype`. `quick`: whether this machine multiplies bfloat16 quickly."""
    if recipe.model.dtype != "auto":
        return recipe
    quick = quick or recipe.cluster.address != "local"
    dtype = _begun_with(runs_dir / recipe.name) or ("bfloat16" if quick else "float32")
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"dtype": dtype})})


def _begun_with(folder: Path) -> str | None:
    """The precision of a run that has begun; None for a new one, and where its record cannot be read."""
    try:
        dtype = json.loads((folder / "recipe.resolved.json").read_text(encoding="utf-8"))["model"]["dtype"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dtype if dtype in ("bfloat16", "float32") else None
