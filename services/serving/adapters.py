"""The adapters that one engine serves beside each other, each under the name that clients know.

A promote loads the new adapter beside the old one and lets the name mean it from then on: requests in work end with the old
one, which goes when the last of them has ended. So nobody waits, and every answer is one checkpoint's.

    name ─▶ _Loaded ─▶ vLLM's table of adapters ─▶ requests, prefixes cached for each adapter apart
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from vllm.lora.request import LoRARequest

from rlft_core.errors import EngineError
from rlft_core.serving.types import Checkpoint
from services.serving.core import in_core
from services.serving.routes import canary_of
from services.weights.adapter_room import room_for

_log = logging.getLogger(__name__)
_MOST_AT_ONCE = 16


@dataclass(slots=True)
class Loaded:
    """An adapter in an engine. Its request has a name of its own, by which vLLM tells it from others of the same model."""

    checkpoint: Checkpoint
    request: LoRARequest
    in_work: int = 0
    retired: bool = False


class Adapters:
    """`table`: where vLLM's server looks up the adapter of a request by its name. Belongs to one event loop."""

    def __init__(self, llm: Any, table: MutableMapping[str, LoRARequest]) -> None:
        self._llm = llm
        self._table = table
        self._numbers = count(1)
        self._loaded: dict[str, Loaded] = {}
        self._removing: set[asyncio.Task[None]] = set()

    async def hold(self, models: Mapping[str, Checkpoint]) -> None:
        """Let names stand for these checkpoints. Raises EngineError when one cannot be loaded; then all is as it was."""
        held = {name: one.checkpoint for name, one in self._loaded.items()}
        new: dict[str, Loaded] = {}
        try:
            for name, checkpoint in models.items():
                if held.get(name) != checkpoint:
                    new[name] = await self._load(name, checkpoint)
        except EngineError:
            for one in new.values():
                await self._remove(one)
            raise
        gone = [self._loaded[name] for name in self._loaded if name in new or name not in models]
        self._loaded = {name: new.get(name) or self._loaded[name] for name in models}
        for one in gone:
            one.retired = True
            self._clear(one)

    @contextmanager
    def use(self, name: str) -> Iterator[Loaded]:
        """What a name stands for now; it stays loaded within the block. A canary that has ended stands for its model."""
        one = self._loaded.get(name) or self._loaded[name.removesuffix(canary_of(""))]
        one.in_work += 1
        try:
            yield one
        finally:
            one.in_work -= 1
            self._clear(one)

    def _clear(self, one: Loaded) -> None:
        if one.retired and not one.in_work:
            task = asyncio.ensure_future(self._remove(one))
            self._removing.add(task)
            task.add_done_callback(self._removing.discard)

    async def _load(self, name: str, checkpoint: Checkpoint) -> Loaded:
        number = next(self._numbers)
        request = LoRARequest(f"{name}#{number}", number, checkpoint.folder)
        await in_core(self._llm.add_lora(request), f"the adapter of {checkpoint.label} could not be loaded")
        self._table[request.lora_name] = request
        return Loaded(checkpoint, request)

    async def _remove(self, one: Loaded) -> None:
        self._table.pop(one.request.lora_name, None)
        try:
            what = f"the adapter of {one.checkpoint.label} could not be unloaded"
            await in_core(self._llm.remove_lora(one.request.lora_int_id), what)
        except EngineError as error:
            _log.warning("%s", error)


def adapter_args(models: Mapping[str, Checkpoint], max_rank: int) -> dict[str, Any]:
    """What an engine is told so that it has room for these names' adapters, for canaries, and for new ones beside the old."""
    num_names = sum(not name.endswith(canary_of("")) for name in models)
    return {
        "enable_lora": True,
        "max_loras": min(2 * num_names, _MOST_AT_ONCE),
        "max_cpu_loras": 4 * num_names,
        "max_lora_rank": room_for(max_rank),
    }
