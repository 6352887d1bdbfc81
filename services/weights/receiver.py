"""The engine's end of a weight sync: a backend for vLLM's weight-transfer lifecycle.

Loaded inside each vLLM worker process through `worker_extension_cls`: importing this module registers the backend
`object_store`. Chunks arrive as NumPy arrays; layer-wise reload lets quantised or pre-packed layers rebuild
themselves. An update that does not cover every parameter of the model is refused before it takes effect.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from services.weights.bundle import Manifest, unflatten

BACKEND = "object_store"


@dataclass
class ObjectStoreInit(WeightTransferInitInfo):
    """Nothing to agree on: every update describes itself."""


@dataclass
class ObjectStoreUpdate(WeightTransferUpdateInfo):
    """One whole version: its manifest and chunks."""

    manifest: Manifest
    chunks: Sequence[np.ndarray] = field(default_factory=list)


class ObjectStoreEngine(WeightTransferEngine[ObjectStoreInit, ObjectStoreUpdate]):
    """Takes weights in checkpoint names from byte chunks."""

    init_info_cls = ObjectStoreInit
    update_info_cls = ObjectStoreUpdate

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._expected: frozenset[str] = frozenset()

    def init_transfer_engine(self, init_info: ObjectStoreInit) -> None:
        """There is no connection to set up."""

    def start_weight_update(self) -> None:
        # Named once, while the model is whole: after a refused update its layers hold nothing until the next good one.
        self._expected = self._expected or frozenset(name for name, _ in self.model.named_parameters())
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: ObjectStoreUpdate) -> None:
        loaded = self.model.load_weights(unflatten(update_info.manifest, update_info.chunks))
        missing = sorted(self._expected - set(loaded))
        if missing:
            raise ValueError(
                f"the update lacks {len(missing)} of {len(self._expected)} parameters, the first is {missing[0]}"
            )

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        for head in _tied_heads(self.model):
            head.quant_method.process_weights_after_loading(head)

    def shutdown(self) -> None:
        """There is no connection to close."""


def _tied_heads(model: nn.Module) -> list[ParallelLMHead]:
    """Output layers that share the embedding's weight.

    No weight arrives under their name, so the reload leaves them as they were: on CPU with a packed copy of the old one.
    """
    embeddings = [module for module in model.modules() if isinstance(module, VocabParallelEmbedding)]
    heads = [module for module in embeddings if isinstance(module, ParallelLMHead)]
    return [head for head in heads if any(head.weight is one.weight for one in embeddings if one is not head)]


class WorkerExtension:
    """Named in `worker_extension_cls`: vLLM imports this module in its workers, and they get these methods."""

    model_runner: Any

    def end_with(self, pid: int) -> None:
        """End this process when that one is gone: killed, it cannot end what it started, and a GPU's memory would stay taken."""

        def watch() -> None:
            while Path(f"/proc/{pid}").exists():
                time.sleep(1.0)
            os._exit(1)

        threading.Thread(target=watch, name="end-with", daemon=True).start()

    def load_folder(self, folder: str) -> None:
        """Exchange all weights for those of a model folder. ValueError when it lacks one; then the engine holds none."""
        from vllm.model_executor.model_loader.weight_utils import safetensors_weights_iterator

        runner = self.model_runner
        model = runner.get_model()
        expected = frozenset(name for name, _ in model.named_parameters())
        initialize_layerwise_reload(model)
        files = sorted(str(file) for file in Path(folder).glob("*.safetensors"))
        loaded = model.load_weights(safetensors_weights_iterator(files, use_tqdm_on_load=False))
        missing = sorted(expected - set(loaded))
        if missing:
            raise ValueError(f"{folder} lacks {len(missing)} of {len(expected)} parameters, the first is {missing[0]}")
        finalize_layerwise_reload(model, runner.model_config)
        for head in _tied_heads(model):
            head.quant_method.process_weights_after_loading(head)


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, ObjectStoreEngine)
