"""The replicas of Ray Serve: a policy's engine, and a reward model. They hold what the registry says.

    start ─▶ registry: what? ─▶ load ─▶ [serve | every half second: report, and load what is new]

A replica whose engine is dead ends itself, and Serve starts another: there is nothing in it to save.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any

from ray import serve
from ray.exceptions import RayError

from rlft_core.errors import EngineError, RlftError, ServiceError
from rlft_core.judging.causal_lm import DEFAULT_TEMPLATE
from rlft_core.judging.questions import Questioner, Tokens
from rlft_core.judging.template import load_template
from rlft_core.serving.types import Checkpoint
from services.serving.asgi import Head
from services.serving.choosing import best_answer
from services.serving.relay import Scored
from services.serving.routes import Target
from services.serving.settings import EngineOptions, Patience

_log = logging.getLogger(__name__)
_EVERY_S = 0.5


class Replica:
    """What both kinds have in common: following the registry. `name`: Serve's of this replica."""

    def __init__(self, pool: str, registry: Any, name: str) -> None:
        self._pool = pool
        self._registry = registry
        self._name = name
        self._version = 0
        self._held: Mapping[str, Checkpoint] = {}
        self._swapping: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None

    async def hold(self) -> None:
        """Never answers: a request in work keeps this pool from scaling to zero. Cancelled by who asked."""
        await asyncio.Event().wait()

    async def check_health(self) -> None:
        """Asked by Serve. Raises ServiceError when this replica is of no use any more."""
        if self._dead:
            raise EngineError(f"the engine of {self._pool} is dead")
        if self._following is not None and self._following.done():
            raise ServiceError(f"{self._pool}: does not follow the registry any more")

    @property
    def _dead(self) -> bool:
        return False

    async def _exchange(self, target: Target) -> None:
        """Hold other checkpoints from now on. Whatever it raises, it then holds the old ones, or is dead."""
        raise AssertionError("each kind has its own")

    async def _wanted(self) -> Target:
        found: Target = await self._registry.wanted.remote(self._pool)
        self._version, self._held = found.version, found.models
        return found

    def _follow(self) -> None:
        self._following = asyncio.ensure_future(self._reports())

    async def _reports(self) -> None:
        while True:
            if self._dead:
                _log.error("the engine of %s is dead; this replica ends", self._pool)
                os._exit(1)
            try:
                target = await self._registry.report.remote(self._pool, self._name, os.getpid(), self._version)
                if target is not None and (self._swapping is None or self._swapping.done()):
                    self._take(target)
            except RayError as error:
                _log.warning("%s: the registry does not answer: %s", self._pool, error)
            await asyncio.sleep(_EVERY_S)

    def _take(self, target: Target) -> None:
        """Load it, unless it is what is held: so all are told to go back that could not load another."""
        if target.models == self._held:
            self._version = target.version
        else:
            self._swapping = asyncio.ensure_future(self._swap(target))

    async def _swap(self, target: Target) -> None:
        try:
            await self._exchange(target)
        except Exception as error:  # noqa: BLE001 - out of memory, say: whoever promotes waits to hear why
            told = str(error) if isinstance(error, RlftError) else f"{type(error).__name__}: {error}"
            _log.exception("%s: what is wanted could not be loaded", self._pool)
            await self._registry.failed.remote(self._pool, self._name, target.version, told)
        else:
            self._version, self._held = target.version, target.models


class PolicyReplica(Replica):
    """One engine of a pool: of one policy, or of all that are adapters of one base, of ranks up to `max_rank`."""

    async def __init__(  # type: ignore[misc] # Serve awaits it
        self, pool: str, max_rank: int, options: EngineOptions, patience: Patience, registry: Any
    ) -> None:
        # vLLM's import takes seconds: only a replica of this kind waits for it.
        from services.serving.engine import ServingEngine, longest

        super().__init__(pool, registry, _own_name())
        self._patience = patience
        target = await self._wanted()
        self._engine = await ServingEngine.start(target.models, options, max_rank=max_rank)
        self._max_length = longest(target.models, options)
        self._questioner: Questioner | None = None
        self._follow()

    async def ask(self, path: str, body: bytes, canary: bool = False) -> AsyncIterator[Head | bytes]:
        """A request of OpenAI's protocol: a head, then pieces of the body. `canary`: of the canary that this engine holds too."""
        async for part in self._engine.ask(path, body, canary=canary):
            yield part

    async def choose(self, model: str, question: str, answers: Sequence[tuple[str, bool]], seed: int) -> int:
        """Which answer is the best by this model's own judgement, in a tournament."""
        if self._questioner is None:
            template = load_template(DEFAULT_TEMPLATE)
            # One place is the label's.
            self._questioner = Questioner.of(template, Tokens(self._engine.tokenizer), max_length=self._max_length - 1)
        ask = partial(self._engine.label_logprobs, model)
        return await best_answer(question, answers, seed, self._questioner, ask)

    @property
    def _dead(self) -> bool:
        return self._engine.dead

    async def _exchange(self, target: Target) -> None:
        await self._engine.hold(target.models, wait_s=self._patience.swap_s / 2)


class RewardReplica(Replica):
    """One copy of a reward model; texts that arrive while it computes are taken together by its next pass."""

    async def __init__(self, pool: str, options: EngineOptions, registry: Any) -> None:  # type: ignore[misc] # Serve awaits it
        from services.serving.scoring import RewardScorer

        super().__init__(pool, registry, _own_name())
        self._kind = RewardScorer
        self._options = options
        target = await self._wanted()
        self._scorer = await asyncio.to_thread(RewardScorer, target.checkpoint, options)
        self._follow()

    async def score(self, question: str, answers: Sequence[str]) -> Scored:
        """What the model thinks of some answers to one question."""
        return await self._scorer.score(question, answers)

    async def _exchange(self, target: Target) -> None:
        # What runs goes on with the old one.
        self._scorer = await asyncio.to_thread(self._kind, target.checkpoint, self._options)


def _own_name() -> str:
    return str(serve.get_replica_context().replica_id.unique_id)
