"""A serving engine whose weights are exchanged for some that do not load. Writes what was seen, as JSON in its last line.

    python -m tests.integration.serving_engine_worker FOLDER

A process of its own, because vLLM starts its core by importing the main module again.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from rlft_core.errors import EngineError
from rlft_core.models.tiny import make_tiny_model
from rlft_core.serving.types import Checkpoint
from services.serving.asgi import Head
from services.serving.engine import ServingEngine
from services.serving.settings import EngineOptions

BODY = json.dumps({"model": "m", "prompt": "a small", "max_tokens": 8, "temperature": 0}).encode()


def model(folder: Path, name: str, seed: int) -> Checkpoint:
    return Checkpoint(name, str(make_tiny_model(folder / name, seed=seed, context=256)), "policy", 256, "float32")


async def answer(engine: ServingEngine) -> tuple[str, str]:
    """The checkpoint and its greedy answer."""
    head, *pieces = [part async for part in engine.ask("/v1/completions", BODY)]
    assert isinstance(head, Head)
    body = b"".join(piece for piece in pieces if isinstance(piece, bytes))
    return head.checkpoint, str(json.loads(body)["choices"][0]["text"])


async def refused(engine: ServingEngine, new: Checkpoint) -> str:
    try:
        await engine.hold({"m": new}, wait_s=30.0)
    except EngineError as error:
        return str(error)
    return ""


async def whole(folder: Path) -> dict[str, Any]:
    old, new, lacking = model(folder, "old", 0), model(folder, "new", 1), model(folder, "lacking", 2)
    weights = load_file(Path(lacking.folder) / "model.safetensors")
    weights.pop(sorted(weights)[-1])
    save_file(weights, Path(lacking.folder) / "model.safetensors", {"format": "pt"})
    engine = await ServingEngine.start({"m": old}, EngineOptions(kv_cache_mb=32), max_rank=0)
    try:
        seen: dict[str, Any] = {"before": await answer(engine)}
        await engine.hold({"m": new}, wait_s=30.0)
        seen["exchanged"] = await answer(engine)
        await engine.hold({"m": old}, wait_s=30.0)
        seen["back"] = await answer(engine)
        seen["dead_before"] = engine.dead
        seen["told"] = await refused(engine, lacking)
        seen["dead"] = engine.dead
        return seen
    finally:
        engine.close()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(whole(Path(sys.argv[1])))) + "\n")
