"""vLLM behind OpenAI's protocol, inside a replica's process, with weights that can be exchanged while requests wait.

    body ─▶ vLLM's own ASGI app ─▶ AsyncLLM ─▶ engine core (a process of vLLM's) ─▶ head, events

The protocol is vLLM's: this file starts its app without a server and calls it in this process. Whole weights are swapped: running
requests end with the old ones and new ones are held back. Adapters of one base are exchanged beside each other (adapters.py).
Either way every answer is one checkpoint's from its first token to its last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import types
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from starlette.datastructures import State
from vllm import AsyncEngineArgs, SamplingParams
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import FrontendArgs
from vllm.inputs import tokens_input
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from rlft_core.errors import EngineError
from rlft_core.models.compute import quick_dtype
from rlft_core.serving.types import Checkpoint
from services.serving.adapters import Adapters, Loaded, adapter_args
from services.serving.asgi import Head, call_app
from services.serving.core import in_core
from services.serving.routes import canary_of
from services.serving.settings import EngineOptions


class ServingEngine:
    """One vLLM engine that serves `models`, checkpoints by the name that clients know: one model's whole weights, or any number
    of adapters of one base. Belongs to the event loop in which it was made."""

    def __init__(self, llm: AsyncLLM, app: Any, models: Mapping[str, Checkpoint], adapters: Adapters | None) -> None:
        self._llm = llm
        self._app = app
        self._models = dict(models)
        self._adapters = adapters
        self._tokenizer = llm.get_tokenizer()
        self._broken = False

    @classmethod
    async def start(cls, models: Mapping[str, Checkpoint], options: EngineOptions, *, max_rank: int) -> ServingEngine:
        """Load the checkpoints; there is room for adapters up to `max_rank`. Raises EngineError when vLLM cannot."""
        labels = " and ".join(checkpoint.label for checkpoint in models.values())
        engine_args = AsyncEngineArgs(**_engine_args(models, options, max_rank))
        try:
            llm = AsyncLLM.from_engine_args(engine_args)
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineError(f"the engine for {labels} did not start: {error}") from error
        await in_core(llm.collective_rpc("end_with", args=(os.getpid(),)), f"the engine for {labels} did not start")
        args = argparse.Namespace(**(vars(FrontendArgs()) | vars(engine_args)))
        tasks = await llm.get_supported_tasks()
        state = State()
        await init_app_state(llm, state, args, supported_tasks=tasks)
        app = build_app(args, supported_tasks=tasks, model_config=llm.model_config)
        app.state._state.update(state._state)
        app.state.server = types.SimpleNamespace()  # vLLM's error handler marks it when the engine is dead
        adapters = Adapters(llm, state.openai_serving_models.lora_requests) if max_rank else None
        if adapters is not None:
            await adapters.hold(models)
        return cls(llm, app, models, adapters)

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self._tokenizer

    @property
    def dead(self) -> bool:
        """Whether its core or its weights are gone, for good."""
        return self._broken or bool(self._llm.errored)

    async def ask(self, path: str, body: bytes, *, canary: bool = False) -> AsyncIterator[Head | bytes]:
        """What vLLM's server answers: a head, then pieces of the body. Raises EngineError when the engine dies before its end.

        `canary`: with the canary of the model that the body names, one of the adapters held here.
        """
        if self._adapters is None:
            async for part in self._ask_whole(path, body):
                yield part
            return
        content = json.loads(body)
        name = content["model"]
        with self._adapters.use(canary_of(name) if canary else name) as loaded:
            # An unescaped quote ends a text, so what is exchanged cannot stand in an answer: it is the key alone.
            own, public = (f'"model":{json.dumps(text)}'.encode() for text in (loaded.request.lora_name, name))
            named = json.dumps(content | {"model": loaded.request.lora_name}).encode()
            async for part in self._answer(path, named):
                if isinstance(part, Head):
                    yield Head(int(part.status), part.media_type, loaded.checkpoint.label)
                else:
                    yield part.replace(own, public)

    async def label_logprobs(self, model: str, prompts: Sequence[list[int]], labels: tuple[int, ...]) -> np.ndarray:
        """[prompts, labels] log-probs of some next tokens at temperature 1."""
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprobs=len(labels),
            logprob_token_ids=list(labels),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        with nullcontext() if self._adapters is None else self._adapters.use(model) as loaded:
            asked = (self._labels(prompt, labels, params, loaded) for prompt in prompts)
            return np.stack(await asyncio.gather(*asked))

    async def hold(self, models: Mapping[str, Checkpoint], *, wait_s: float) -> None:
        """Serve other checkpoints under the same names. Raises EngineError; then nothing has changed, or the engine is dead.

        Where whole weights are exchanged, requests that run are waited for, at most `wait_s`: what takes longer is given up.
        Weights that cannot be loaded then leave it dead.
        """
        if self._adapters is not None:
            await self._adapters.hold(models)
            self._models = dict(models)
            return
        (name,) = self._models
        await self._swap(name, models[name], wait_s)

    def close(self) -> None:
        """End it and its core."""
        self._llm.shutdown()

    async def _answer(self, path: str, body: bytes) -> AsyncIterator[Head | bytes]:
        async for part in call_app(self._app, path, body):
            if self.dead:
                raise EngineError(f"the engine of {' and '.join(self._models)} died")
            yield part

    async def _ask_whole(self, path: str, body: bytes) -> AsyncIterator[Head | bytes]:
        """Only with the first piece is it sure whose weights answer: the request may have waited for a swap."""
        head: Head | None = None
        async for part in self._answer(path, body):
            if isinstance(part, Head):
                head = part
                continue
            if head is not None:
                yield self._labelled(head)
                head = None
            yield part
        if head is not None:
            yield self._labelled(head)

    def _labelled(self, head: Head) -> Head:
        (checkpoint,) = self._models.values()
        return Head(int(head.status), head.media_type, checkpoint.label)

    async def _swap(self, name: str, new: Checkpoint, wait_s: float) -> None:
        old = self._models[name]
        try:
            await asyncio.wait_for(self._llm.pause_generation(mode="wait", clear_cache=True), wait_s)
        except TimeoutError:
            await self._llm.resume_generation()
            raise EngineError(
                f"requests that run on {old.label} did not end within {wait_s:g} s, so {new.label} was not loaded"
            ) from None
        try:
            await self._load(name, new)
            await self._llm.resume_generation()
        except BaseException:
            # Its layers hold parts of both: a new engine is sure, another load into this one is not.
            self._broken = True
            raise

    async def _load(self, name: str, checkpoint: Checkpoint) -> None:
        what = f"the weights of {checkpoint.label} could not be loaded"
        await in_core(self._llm.collective_rpc("load_folder", args=(checkpoint.folder,)), what)
        await in_core(self._llm.reset_prefix_cache(), what)
        await in_core(self._llm.update_weight_version(checkpoint.label), what)
        self._models[name] = checkpoint

    async def _labels(
        self, prompt: list[int], labels: tuple[int, ...], params: SamplingParams, loaded: Loaded | None
    ) -> np.ndarray:
        adapter = None if loaded is None else loaded.request
        final: Any = None
        async for output in self._llm.generate(
            tokens_input(prompt), params, f"judge-{uuid4().hex}", lora_request=adapter
        ):
            final = output
        (entry,) = final.outputs[0].logprobs
        return np.asarray([entry[label].logprob for label in labels], dtype=np.float32)


def longest(models: Mapping[str, Checkpoint], options: EngineOptions) -> int:
    """Tokens of prompt and answer together that an engine of these models takes."""
    return options.max_length or max(checkpoint.max_length for checkpoint in models.values())


def _precision(checkpoint: Checkpoint, options: EngineOptions) -> str:
    """As it was tuned; numbers of bfloat16 are computed in float32 by a processor that is slow in them."""
    slow = not options.on_gpu and quick_dtype(torch.device("cpu")) == torch.float32
    return "float32" if slow else checkpoint.dtype


def _engine_args(models: Mapping[str, Checkpoint], options: EngineOptions, max_rank: int) -> dict[str, Any]:
    length, checkpoint = longest(models, options), next(iter(models.values()))
    args: dict[str, Any] = {
        "model": checkpoint.base or str(Path(checkpoint.folder)),
        # Nobody asks for the base itself: its name is one that no request can have passed the gateway with.
        "served_model_name": ["#base"] if max_rank else list(models),
        "dtype": _precision(checkpoint, options),
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
    if max_rank:
        args |= adapter_args(models, max_rank)
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
