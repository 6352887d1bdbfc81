"""The gateway as a deployment of Ray Serve, and the registry as it sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ray.exceptions import RayError

from rlft_core.serving.routing import Allowance
from services.serving.completions import Completions
from services.serving.gateway import Gateway
from services.serving.meters import RayMeters
from services.serving.pools import ServePools
from services.serving.routes import Reply, Route
from services.serving.settings import FrontOptions

_REFRESH_S = 0.5


class RemoteRegistry:
    """The registry behind its handle."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def routes(self) -> Sequence[Route]:
        """As `Registry.routes`."""
        found: Sequence[Route] = await self._handle.routes.remote()
        return found

    async def overview(self) -> Sequence[Mapping[str, Any]]:
        """As `Registry.overview`."""
        found: Sequence[Mapping[str, Any]] = await self._handle.overview.remote()
        return found

    async def promote(self, name: str, spec: str, percent: float) -> Reply:
        """As `Registry.promote`."""
        found: Reply = await self._handle.promote.remote(name, spec, percent)
        return found

    async def rollback(self, name: str) -> Reply:
        """As `Registry.rollback`."""
        found: Reply = await self._handle.rollback.remote(name)
        return found


class GatewayReplica:
    """The gateway as one replica of Serve."""

    async def __init__(self, options: FrontOptions, registry: Any, handles: Mapping[str, Any]) -> None:  # type: ignore[misc] # Serve awaits it
        allowance = Allowance(options.requests_per_minute, options.tokens_per_minute)
        meters = RayMeters()

        def counted(key: str, prompt: int, completion: int) -> None:
            meters.tokens(prompt, completion)
            allowance.take_tokens(key, prompt + completion, asyncio.get_running_loop().time())

        completions = Completions(ServePools(handles), options.request_s, options.postprocess, counted)
        control = RemoteRegistry(registry)
        self._gateway = Gateway(completions, control, options.keys, options.limits, allowance, meters)
        await self._gateway.refresh()
        self._refreshing = asyncio.ensure_future(self._refresh())

    async def __serve_build_asgi_app__(self) -> Any:
        return self._gateway.app()

    async def drain(self, seconds: float) -> int:
        """As `Gateway.drain`."""
        return await self._gateway.drain(seconds)

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_S)
            with suppress(RayError):  # the routes of before hold until the registry is back
                await self._gateway.refresh()
