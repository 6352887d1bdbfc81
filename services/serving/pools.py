"""The pools of replicas behind Ray Serve's handles. Which replica is asked is Serve's choice: of two, the less busy one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from rlft_core.errors import EngineError, RlftError
from services.serving.asgi import Head
from services.serving.relay import EngineLost, PoolBusy, ReplicaLost, Scored
from services.serving.routes import canary_of


class ServePools:
    """`handles`: the deployment of every pool. A canary's pool without one is in the engines of the pool that it belongs to."""

    def __init__(self, handles: Mapping[str, Any]) -> None:
        self._handles = handles

    async def ask(self, pool: str, path: str, body: bytes) -> AsyncIterator[Head | bytes]:
        """As `Pools.ask`."""
        handle, canary = self._place(pool)
        parts = handle.options(stream=True).ask.remote(path, body, canary)
        done = False
        try:
            async for part in parts:
                yield part
            done = True
        except _LOSSES as error:
            raise _told(error) from error
        finally:
            if not done:
                parts.cancel()  # whoever asked has hung up: the engine need not go on

    async def choose(self, pool: str, model: str, question: str, answers: Sequence[tuple[str, bool]], seed: int) -> int:
        """As `Pools.choose`."""
        handle, canary = self._place(pool)
        name = canary_of(model) if canary else model
        return int(await self._call(handle.choose.remote(name, question, list(answers), seed)))

    async def score(self, pool: str, question: str, answers: Sequence[str]) -> Scored:
        """As `Pools.score`."""
        found: Scored = await self._call(self._handles[pool].score.remote(question, list(answers)))
        return found

    def _place(self, pool: str) -> tuple[Any, bool]:
        """The deployment to ask, and whether it is asked for its canary."""
        if pool in self._handles:
            return self._handles[pool], False
        return self._handles[pool.removesuffix(canary_of(""))], True

    async def _call(self, response: Any) -> Any:
        try:
            return await response
        except _LOSSES as error:
            raise _told(error) from error


_LOSSES = (RayActorError, RayTaskError, BackPressureError, DeploymentUnavailableError)


def _told(error: Exception) -> Exception:
    """What the gateway is to make of what Ray raised."""
    if isinstance(error, BackPressureError):
        return PoolBusy(str(error))
    cause = error.cause if isinstance(error, RayTaskError) else None
    if isinstance(cause, EngineError):
        return EngineLost(str(cause))
    if isinstance(cause, RlftError):
        return cause
    if cause is not None and not isinstance(cause, RayActorError):
        return error  # a fault of ours: it would be the same on every replica
    return ReplicaLost(str(error))
