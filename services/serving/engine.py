"""vLLM behind OpenAI's protocol, inside a replica's process, with weights that can be exchanged while requests wait.

    body ─▶ vLLM's own ASGI app ─▶ AsyncLLM ─▶ engine core (a process of vLLM's) ─▶ head, events

The protocol is vLLM's: this file starts its app without a server and calls it in this process. A swap lets running requests end
with the old weights and holds new ones back, so that every answer is one checkpoint's from its first token to its last.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import types
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from starlette.datastructures import State
from vllm import AsyncEngineArgs, SamplingParams
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import FrontendArgs
from vllm.exceptions import VLLMError
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from rlft_core.errors import EngineError
from rlft_core.serving.types import Checkpoint
from services.serving.asgi import Head, call_app
from services.serving.settings import EngineOptions


class ServingEngine:
    """One vLLM engine that serves `checkpoint` under the name `model`. Belongs to the event loop in which it was made."""

    def __init__(self, llm: AsyncLLM, app: Any, checkpoint: Checkpoint) -> None:
        self._llm = llm
        self._app = app
        self._checkpoint = checkpoint
        self._tokenizer = llm.get_tokenizer()

    @classmethod
    async def start(cls, model: str, checkpoint: Checkpoint, options: EngineOptions) -> ServingEngine:
        """Load the checkpoint. Raises EngineError when vLLM cannot."""
        engine_args = AsyncEngineArgs(served_model_name=[model], **_engine_args(checkpoint, options))
        try:
            llm = AsyncLLM.from_engine_args(engine_args)
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineError(f"the engine for {checkpoint.label} did not start: {error}") from error
        await llm.collective_rpc("end_with", args=(os.getpid(),))
        args = argparse.Namespace(**(vars(FrontendArgs()) | vars(engine_args)))
        tasks = await llm.get_supported_tasks()
        state = State()
        await init_app_state(llm, state, args, supported_tasks=tasks)
        app = build_app(args, supported_tasks=tasks, model_config=llm.model_config)
        app.state._state.update(state._state)
        app.state.server = types.SimpleNamespace()  # vLLM's error handler marks it when the engine is dead
        return cls(llm, app, checkpoint)

    @property
    def checkpoint(self) -> Checkpoint:
        """Whose weights it holds."""
        return self._checkpoint

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self._tokenizer

    @property
    def dead(self) -> bool:
        """Whether its core is gone, for good."""
        return bool(self._llm.errored)

    async def ask(self, path: str, body: bytes) -> AsyncIterator[Head | bytes]:
        """What vLLM's server answers: a head, then pieces of the body. Raises EngineError when the engine dies before its end."""
        async for part in call_app(self._app, path, body):
            if self.dead:
                raise EngineError(f"the engine of {self._checkpoint.label} died")
            yield part

    async def label_logprobs(self, prompts: Sequence[list[int]], labels: tuple[int, ...]) -> np.ndarray:
        """[prompts, labels] log-probs of some next tokens at temperature 1."""
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprobs=len(labels),
            logprob_token_ids=list(labels),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        return np.stack(await asyncio.gather(*(self._labels(prompt, labels, params) for prompt in prompts)))

    async def swap(self, new: Checkpoint, *, wait_s: float) -> None:
        """Exchange the weights. Raises EngineError; then the old ones are back, or the engine is dead.

        Requests that run are waited for at most `wait_s`: a swap that takes longer is given up, and nothing has changed.
        """
        try:
            await asyncio.wait_for(self._llm.pause_generation(mode="wait", clear_cache=True), wait_s)
        except TimeoutError:
            await self._llm.resume_generation()
            raise EngineError(
                f"requests that run on {self._checkpoint.label} did not end within {wait_s:g} s, so {new.label} was not loaded"
            ) from None
        try:
            await self._load(new)
        except EngineError:
            await self._load(self._checkpoint)
            raise
        finally:
            if not self.dead:
                await self._llm.resume_generation()

    def close(self) -> None:
        """End it and its core."""
        self._llm.shutdown()

    async def _load(self, checkpoint: Checkpoint) -> None:
        try:
            await self._llm.collective_rpc("load_folder", args=(checkpoint.folder,))
            await self._llm.reset_prefix_cache()
            await self._llm.update_weight_version(checkpoint.label)
        except (VLLMError, RuntimeError, ValueError, OSError) as error:
            raise EngineError(f"the weights of {checkpoint.label} could not be loaded: {error}") from error
        self._checkpoint = checkpoint

    async def _labels(self, prompt: list[int], labels: tuple[int, ...], params: SamplingParams) -> np.ndarray:
        final: Any = None
        async for output in self._llm.generate(tokens_input(prompt), params, f"judge-{uuid4().hex}"):
            final = output
        (entry,) = final.outputs[0].logprobs
        return np.asarray([entry[label].logprob for label in labels], dtype=np.float32)


def _engine_args(checkpoint: Checkpoint, options: EngineOptions) -> dict[str, Any]:
    length = options.max_length or checkpoint.max_length
    args: dict[str, Any] = {
        "model": str(Path(checkpoint.folder)),
        "dtype": checkpoint.dtype,
        "max_model_len": length,
        "max_num_seqs": options.max_sequences,
        "enforce_eager": not options.on_gpu,
        "tensor_parallel_size": options.tensor_parallel,
        "distributed_executor_backend": "uni" if options.tensor_parallel == 1 else "mp",  # one process fewer to start
        "trust_remote_code": checkpoint.trust_remote_code,
        "seed": 0,
        "generation_config": "vllm",  # OpenAI's defaults, not those of a file in the model's folder
        "override_generation_config": {"max_new_tokens": options.max_tokens},
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "worker_extension_cls": "services.weights.receiver.WorkerExtension",
    }
    if options.on_gpu:
        args["gpu_memory_utilization"] = options.gpu_memory_share
    else:
        args |= {
            "block_size": options.block_tokens,
            "kv_cache_memory_bytes": options.kv_cache_mb << 20,
            # A prompt cut in two makes vLLM rewind a seeded request's generator, which fails on CPU and ends the engine.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(2048, length),
        }
    return args
