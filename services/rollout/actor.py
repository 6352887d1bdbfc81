"""One engine in a Ray actor.

    Ray calls ──▶ inbox ──▶ engine thread: admit whole batches ─▶ step ─▶ step ─▶ ... ──▶ futures ──▶ replies
                                           between steps: load weights, probe

One thread owns the engine. Requests of a batch are admitted together and in order, because on some kernels the last
bits of a log-prob depend on which sequences share a step: with one engine the same questions then give the same
answers, bit for bit. Weights are loaded between two steps; what was computed with the old ones is forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from rlft_core.errors import RlftError, SyncError
from rlft_core.judging.questions import Asking
from rlft_core.rewards.given import GivenScores
from rlft_core.types import Prompt, RolloutGroup
from services.rollout.engine import Engine, EngineSettings, Sampling
from services.rollout.judging import Judging, judged
from services.weights.bundle import Manifest, Probe

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ticket:
    """Place of a request within the batch that its engine admits at once."""

    batch: str
    index: int
    size: int


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """What the coordinator may know of a group: numbers, no tokens.

    `span` is when the engine worked on it: admitted to complete, in seconds since the epoch.
    """

    engine: str
    num_tokens: int
    seconds: float
    span: tuple[float, float]


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a weight sync took and whether the engine now agrees with the learner. Differences are per token, in nats."""

    engine: str
    version: int
    seconds: float
    num_bytes: int
    probe_mean: float
    probe_max: float


@dataclass(slots=True)
class _Request:
    prompt: Prompt
    sampling: Sampling
    ticket: Ticket
    reply: Future[RolloutGroup]
    admitted: float = 0.0


class RolloutActor:
    """Runs an engine. Placed with `ray.remote` by the fleet."""

    def __init__(self, name: str, kind: str, settings: EngineSettings, options: dict[str, Any] | None = None) -> None:
        self._name = name
        self._inbox: queue.SimpleQueue[_Request | tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._waiting: dict[str, dict[int, _Request]] = {}
        self._running: dict[str, Future[Any]] = {}
        self._asking: dict[str, Asking] = {}
        self._engine: Engine = _build(kind, settings, name, options or {})
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def info(self) -> dict[str, Any]:
        """Process and node of this engine, and the version it holds."""
        context = ray.get_runtime_context()
        return {"name": self._name, "pid": os.getpid(), "node": context.get_node_id(), "version": self._engine.version}

    @ray.method(num_returns=2)
    async def generate(self, prompt: Prompt, sampling: Sampling, ticket: Ticket) -> tuple[GroupSummary, RolloutGroup]:
        """Sample a group. The summary is for the coordinator, the group stays in the object store."""
        started = time.monotonic()
        reply: Future[RolloutGroup] = Future()
        request = _Request(prompt, sampling, ticket, reply)
        self._inbox.put(request)
        group = await asyncio.wrap_future(reply)
        num_tokens = sum(c.num_tokens for c in group.completions)
        span = (request.admitted, time.time())
        return GroupSummary(self._name, num_tokens, time.monotonic() - started, span), group

    @ray.method(num_returns=2)
    async def judge(self, group: RolloutGroup, judging: Judging) -> tuple[GroupSummary, GivenScores]:
        """Compare a group's samples. The summary is for the coordinator, the scores stay in the object store."""
        if judging.label not in self._asking:
            self._asking[judging.label] = judging.asking()
        num_tokens = 0

        async def ask(prompts: Sequence[list[int]], labels: tuple[int, ...]) -> np.ndarray:
            nonlocal num_tokens
            num_tokens += sum(map(len, prompts))
            added: Future[list[Future[np.ndarray]]] = Future()
            self._inbox.put((lambda: self._question(prompts, labels, plain=judging.plain), added))
            answers = await asyncio.wrap_future(added)
            found: list[np.ndarray] = await asyncio.gather(*map(asyncio.wrap_future, answers))
            return np.stack(found)

        scores = await judged(group, judging, self._asking[judging.label], ask)
        return GroupSummary(self._name, num_tokens, scores.span[1] - scores.span[0], scores.span), scores

    def _question(
        self, prompts: Sequence[list[int]], labels: tuple[int, ...], *, plain: bool
    ) -> list[Future[np.ndarray]]:
        """On the engine thread: queue questions beside whatever else is running."""
        answers: list[Future[np.ndarray]] = []
        for prompt in prompts:
            answers.append(Future())
            self._running[self._engine.add_question(prompt, labels, plain=plain)] = answers[-1]
        return answers

    async def load(self, manifest: Manifest, chunks: list[ray.ObjectRef], probe: Probe | None) -> SyncReport:
        """Take weights and compare the engine's log-probs of the probe with the learner's. Raises SyncError."""
        arrays = [np.asarray(array) for array in await asyncio.gather(*chunks)]
        loaded: Future[tuple[float, Future[np.ndarray] | None]] = Future()
        self._inbox.put((lambda: self._load(manifest, arrays, probe), loaded))
        seconds, answer = await asyncio.wrap_future(loaded)
        mean = worst = 0.0
        if probe is not None and answer is not None:
            mean, worst = self._compare(probe, await asyncio.wrap_future(answer))
        return SyncReport(self._name, manifest.version, seconds, manifest.num_bytes, mean, worst)

    def _load(
        self, manifest: Manifest, chunks: list[np.ndarray], probe: Probe | None
    ) -> tuple[float, Future[np.ndarray] | None]:
        """On the engine thread: load, and ask the probe beside whatever else is running."""
        started = time.monotonic()
        self._engine.load(manifest, chunks)
        seconds = time.monotonic() - started
        if probe is None:
            return seconds, None
        answer: Future[np.ndarray] = Future()
        self._running[self._engine.add_probe(probe.token_ids, probe.num_targets)] = answer
        return seconds, answer

    def _compare(self, probe: Probe, mine: np.ndarray) -> tuple[float, float]:
        difference = np.abs(mine.astype(np.float64) - probe.logprobs)
        if not np.isfinite(difference).all():
            raise SyncError(f"{self._name}: the probe gave log-probs that are not finite: {mine.tolist()[:8]}")
        return float(difference.mean()), float(difference.max())

    def _run(self) -> None:
        try:
            while True:
                self._receive(block=not self._engine.busy)
                if self._engine.busy:
                    for request, result in self._engine.step():
                        self._running.pop(request).set_result(result)
        except BaseException as error:  # noqa: BLE001 - whatever ends the engine must reach those who wait for it
            _log.exception("%s died", self._name)
            self._refuse_all(RuntimeError(f"{self._name} is dead: {type(error).__name__}: {error}"))

    def _refuse_all(self, error: RuntimeError) -> None:
        """What is left of a dead engine's thread: everyone who waits, now or later, hears of its end."""
        held = [request.reply for batch in self._waiting.values() for request in batch.values()]
        for reply in [*self._running.values(), *held]:
            reply.set_exception(error)
        while True:
            item = self._inbox.get()
            (item.reply if isinstance(item, _Request) else item[1]).set_exception(error)

    def _receive(self, *, block: bool) -> None:
        while True:
            try:
                item = self._inbox.get(block=block)
            except queue.Empty:
                return
            block = False
            if isinstance(item, _Request):
                self._admit(item)
                block = not self._engine.busy and bool(self._waiting)
            else:
                self._call(*item)

    def _admit(self, request: _Request) -> None:
        """Hold a batch back until it is whole, then add all of it in order."""
        batch = self._waiting.setdefault(request.ticket.batch, {})
        batch[request.ticket.index] = request
        if len(batch) < request.ticket.size:
            return
        del self._waiting[request.ticket.batch]
        members = [member for _, member in sorted(batch.items())]
        for place, member in enumerate(members):
            member.admitted = time.time()
            try:
                self._running[self._engine.add(member.prompt, member.sampling)] = member.reply
            except RlftError as error:
                member.reply.set_exception(error)
            except BaseException as error:
                for lost in members[place:]:  # nothing else holds them any more; those before stand in _running
                    lost.reply.set_exception(RuntimeError(f"the engine died: {error}"))
                raise

    @staticmethod
    def _call(function: Callable[[], Any], reply: Future[Any]) -> None:
        try:
            reply.set_result(function())
        except RlftError as error:
            reply.set_exception(error)
        except BaseException as error:
            reply.set_exception(RuntimeError(f"the engine died: {error}"))
            raise


def _build(kind: str, settings: EngineSettings, name: str, options: dict[str, Any]) -> Engine:
    if kind == "vllm":
        from services.rollout.vllm_engine import VllmEngine

        return VllmEngine(settings, name)
    if kind == "fake":
        from services.rollout.fake_engine import FakeEngine

        return FakeEngine(settings, name, **options)
    raise ValueError(f"unknown engine '{kind}'; there are vllm and fake")
