"""vLLM behind the engine protocol: the only file of the product, with `services.weights.receiver`, that imports vllm.

The engine core runs in this process (VLLM_ENABLE_V1_MULTIPROCESSING=0): no second process to start or to lose, weights
are read from Ray's object store without a copy, and the order in which requests are scheduled is ours. Tensor-parallel
workers are processes of vLLM's own. `step` is called by one thread only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from vllm import EngineArgs, SamplingParams
from vllm.config import WeightTransferConfig
from vllm.exceptions import VLLMValidationError
from vllm.inputs import tokens_input
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

from rlft_core.errors import EngineError, SyncError
from rlft_core.types import Completion, Prompt, RolloutGroup
from services.rollout.engine import EngineSettings, Sampling
from services.weights.bundle import Manifest, unflatten
from services.weights.receiver import BACKEND

# What requests name. Its folder is gone when they run: the adapter is in memory by then.
_ADAPTER = LoRARequest("policy", 1, "loaded-before")


class VllmEngine:
    """One vLLM engine. `name` is written into every group it makes."""

    def __init__(self, settings: EngineSettings, name: str = "") -> None:
        self._name = name
        self._settings = settings
        self._llm = LLMEngine.from_engine_args(EngineArgs(**_engine_args(settings)))
        self._tokenizer = self._llm.get_tokenizer()
        self._requests: dict[str, Prompt] = {}
        self._probes: dict[str, tuple[tuple[int, ...], int]] = {}
        self._questions: dict[str, tuple[int, ...]] = {}
        self._count = 0
        self._version = -1
        self._adapter: LoRARequest | None = None
        self._llm.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": {}})

    @property
    def busy(self) -> bool:
        return self._llm.has_unfinished_requests()

    @property
    def version(self) -> int:
        return self._version

    def add(self, prompt: Prompt, sampling: Sampling) -> str:
        params = SamplingParams(
            n=prompt.num_samples,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            min_tokens=sampling.min_tokens,
            seed=prompt.seed,
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        request = self._submit(prompt.token_ids, params)
        self._requests[request] = prompt
        return request

    def add_probe(self, token_ids: Sequence[int], num_targets: int) -> str:
        params = SamplingParams(
            temperature=1.0, max_tokens=1, prompt_logprobs=0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        request = self._submit(token_ids, params)
        self._probes[request] = (tuple(token_ids), num_targets)
        return request

    def add_question(self, token_ids: Sequence[int], next_tokens: Sequence[int], *, plain: bool) -> str:
        # Greedy, so that no generator is needed; processed log-probs of a greedy request are those at temperature 1.
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprobs=len(next_tokens),
            logprob_token_ids=list(next_tokens),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        request = self._submit(token_ids, params, plain=plain)
        self._questions[request] = tuple(next_tokens)
        return request

    def step(self) -> list[tuple[str, RolloutGroup | np.ndarray]]:
        return [(o.request_id, self._result(o)) for o in self._llm.step() if o.finished]

    def load(self, manifest: Manifest, chunks: Sequence[np.ndarray]) -> None:
        try:
            if manifest.kind == "adapter":
                self._load_adapter(manifest, chunks)
            else:
                self._llm.collective_rpc("start_weight_update")
                update = {"manifest": manifest, "chunks": list(chunks)}
                self._llm.collective_rpc("update_weights", kwargs={"update_info": update})
                self._llm.collective_rpc("finish_weight_update")
        except (RuntimeError, ValueError, KeyError, AssertionError) as error:
            self._version = -1
            raise SyncError(
                f"{self._name or 'engine'} could not take weights version {manifest.version}: {error}"
            ) from error
        # Cached keys and values were computed with the old weights; running requests recompute theirs.
        self._llm.reset_prefix_cache(reset_running_requests=True)
        self._llm.set_weight_version(str(manifest.version))
        self._version = manifest.version

    def close(self) -> None:
        self._llm.engine_core.shutdown()

    def _submit(self, token_ids: Sequence[int], params: SamplingParams, *, plain: bool = False) -> str:
        self._count += 1
        adapter = None if plain else self._adapter
        request = str(self._count)
        try:
            self._llm.add_request(request, tokens_input(list(token_ids)), params, lora_request=adapter)
        except (VLLMValidationError, ValueError) as error:
            raise EngineError(
                f"{self._name or 'engine'} refused a prompt of {len(token_ids)} tokens "
                f"(model.max_length is {self._settings.max_length}): {error}"
            ) from error
        return request

    def _result(self, output: Any) -> RolloutGroup | np.ndarray:
        if output.request_id in self._questions:
            (entry,) = output.outputs[0].logprobs
            wanted = self._questions.pop(output.request_id)
            return np.asarray([entry[token].logprob for token in wanted], dtype=np.float32)
        if output.request_id not in self._probes:
            return self._group(self._requests.pop(output.request_id), output)
        token_ids, num_targets = self._probes.pop(output.request_id)
        pairs = list(zip(output.prompt_logprobs, token_ids, strict=True))[-num_targets:]
        return np.asarray([entry[token].logprob for entry, token in pairs], dtype=np.float32)

    def _group(self, prompt: Prompt, output: Any) -> RolloutGroup:
        completions = tuple(self._completion(c) for c in sorted(output.outputs, key=lambda c: c.index))
        return RolloutGroup(prompt, completions, engine=self._name, cached_tokens=output.num_cached_tokens or 0)

    def _completion(self, output: Any) -> Completion:
        token_ids = np.asarray(output.token_ids, dtype=np.int32)
        logprobs = [entry[token].logprob for entry, token in zip(output.logprobs, output.token_ids, strict=True)]
        versions = np.full(len(token_ids), self._version, dtype=np.int32)
        for span in output.weight_versions or ():
            if span.version.lstrip("-").isdigit():
                versions[span.start : span.end] = int(span.version)
        text = self._tokenizer.decode(output.token_ids, skip_special_tokens=True)
        return Completion(token_ids, np.asarray(logprobs, dtype=np.float32), versions, output.finish_reason, text)

    def _load_adapter(self, manifest: Manifest, chunks: Sequence[np.ndarray]) -> None:
        """A LoRA adapter goes through a folder, the only way vLLM takes one.

        It keeps its name and number over all versions, so that requests which are running go on with the new one.
        """
        from safetensors.torch import save_file

        with tempfile.TemporaryDirectory(prefix="rlft-adapter-") as folder:
            save_file(
                {name: t.clone() for name, t in unflatten(manifest, chunks)}, Path(folder, "adapter_model.safetensors")
            )
            Path(folder, "adapter_config.json").write_text(manifest.adapter_config)
            if not self._llm.add_lora(LoRARequest(_ADAPTER.lora_name, _ADAPTER.lora_int_id, folder, load_inplace=True)):
                raise RuntimeError("vLLM refused the adapter")
        self._adapter = _ADAPTER


def _engine_args(settings: EngineSettings) -> dict[str, Any]:
    args: dict[str, Any] = {
        "model": settings.model,
        "dtype": settings.dtype,
        "max_model_len": settings.max_length,
        "max_num_seqs": settings.max_sequences,
        "block_size": settings.block_tokens,
        "enforce_eager": settings.enforce_eager,
        "tensor_parallel_size": settings.tensor_parallel,
        "trust_remote_code": settings.trust_remote_code,
        "seed": 0,
        "generation_config": "vllm",  # the model's own file would silently change how is sampled
        "logprobs_mode": "processed_logprobs",  # of the distribution really sampled from
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "worker_extension_cls": "services.weights.receiver.WorkerExtension",
        "weight_transfer_config": WeightTransferConfig(backend=BACKEND),
    }
    if settings.on_gpu:
        args["gpu_memory_utilization"] = settings.gpu_memory_share
    else:
        args["kv_cache_memory_bytes"] = settings.kv_cache_bytes
        # A prompt cut in two makes vLLM rewind a seeded request's generator, which fails on CPU and ends the engine.
        args["enable_chunked_prefill"] = False
    if settings.lora_rank:
        args |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": settings.lora_rank}
    return args
