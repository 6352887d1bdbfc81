"""A scripted engine: no model, no vllm, real groups. For tests of recipes, rewards and the machinery around engines.

Every prompt gets completions that are a pure function of (token ids, seed, sample), so that they do not depend on the
engine, on the other requests or on the version of the weights. It ships with the product: users' tests may use it too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from rlft_core.errors import EngineError, SyncError
from rlft_core.types import Completion, Prompt, RolloutGroup
from services.rollout.engine import EngineSettings, Sampling
from services.weights.bundle import Manifest

_WORDS = ("tool", "for", "reading", "files", "a", "small", "library", "game", "fast", "server")


class FakeEngine:
    """Draws words from a short list.

    After `fail_after` requests it dies in a step, as an engine does, after `break_after` while one is added; a step takes
    `step_s` seconds; `probe_logprob` is what it answers to every probe.
    """

    def __init__(
        self,
        settings: EngineSettings,
        name: str = "",
        *,
        fail_after: int | None = None,
        break_after: int | None = None,
        step_s: float = 0.0,
        probe_logprob: float = -1.0,
    ) -> None:
        self._settings = settings
        self._name = name
        self._fail_after = fail_after
        self._break_after = break_after
        self._step_s = step_s
        self._probe_logprob = probe_logprob
        self._queue: list[tuple[str, Prompt, Sampling]] = []
        self._probes: list[tuple[str, int]] = []
        self._questions: list[tuple[str, np.ndarray]] = []
        self._count = 0
        self._version = -1

    @property
    def busy(self) -> bool:
        return bool(self._queue or self._probes or self._questions)

    @property
    def version(self) -> int:
        return self._version

    def add(self, prompt: Prompt, sampling: Sampling) -> str:
        if len(prompt.token_ids) + sampling.max_tokens > self._settings.max_length:
            raise EngineError(
                f"{self._name}: prompt of {len(prompt.token_ids)} tokens exceeds {self._settings.max_length}"
            )
        if self._break_after is not None and self._count >= self._break_after:
            raise RuntimeError(f"{self._name}: scripted breakdown after {self._break_after} requests")
        self._count += 1
        self._queue.append((str(self._count), prompt, sampling))
        return str(self._count)

    def add_probe(self, token_ids: Sequence[int], num_targets: int) -> str:
        self._count += 1
        self._probes.append((str(self._count), num_targets))
        return str(self._count)

    def add_question(self, token_ids: Sequence[int], next_tokens: Sequence[int], *, plain: bool) -> str:
        """Answers depend on the question alone."""
        self._count += 1
        rng = np.random.default_rng([len(token_ids), *token_ids[-64:]])
        self._questions.append((str(self._count), np.log(rng.dirichlet(np.ones(len(next_tokens) + 1))[:-1])))
        return str(self._count)

    def step(self) -> list[tuple[str, RolloutGroup | np.ndarray]]:
        if self._fail_after is not None and self._count > self._fail_after:
            raise EngineError(f"{self._name}: scripted failure after {self._fail_after} requests")
        time.sleep(self._step_s)
        groups: list[tuple[str, RolloutGroup | np.ndarray]] = [(r, self._group(p, s)) for r, p, s in self._queue]
        probes = [(request, np.full(count, self._probe_logprob, dtype=np.float32)) for request, count in self._probes]
        answers = [(request, logprobs.astype(np.float32)) for request, logprobs in self._questions]
        self._queue, self._probes, self._questions = [], [], []
        return [*groups, *probes, *answers]

    def load(self, manifest: Manifest, chunks: Sequence[np.ndarray]) -> None:
        size = sum(chunk.nbytes for chunk in chunks)
        if size != manifest.num_bytes:
            self._version = -1
            raise SyncError(f"{self._name}: version {manifest.version} has {manifest.num_bytes} bytes, got {size}")
        self._version = manifest.version

    def close(self) -> None:
        self._queue = []

    def _group(self, prompt: Prompt, sampling: Sampling) -> RolloutGroup:
        return RolloutGroup(
            prompt,
            tuple(self._completion(prompt, sampling, k) for k in range(prompt.num_samples)),
            engine=self._name,
        )

    def _completion(self, prompt: Prompt, sampling: Sampling, sample: int) -> Completion:
        rng = np.random.default_rng([prompt.seed + sample, len(prompt.token_ids)])
        length = int(rng.integers(1, sampling.max_tokens + 1))
        token_ids = rng.integers(5, 200, size=length).astype(np.int32)
        return Completion(
            token_ids=token_ids,
            logprobs=-rng.random(length).astype(np.float32),
            versions=np.full(length, self._version, dtype=np.int32),
            finish_reason="length" if length == sampling.max_tokens else "stop",
            text=" ".join(_WORDS[t % len(_WORDS)] for t in token_ids),
        )
