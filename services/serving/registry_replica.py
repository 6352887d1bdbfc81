"""The registry as a deployment of Ray Serve."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from ray import serve
from ray.exceptions import RayError

from rlft_core.serving.state import Served
from services.serving.registry import Registry
from services.serving.settings import APP, Patience

_log = logging.getLogger(__name__)


class RegistryReplica(Registry):
    """The registry as one replica of Serve."""

    async def __init__(  # type: ignore[misc] # Serve awaits it
        self,
        models: Sequence[Served],
        runs_dir: Path,
        state_file: Path,
        patience: Patience,
        names: Mapping[str, str],
    ) -> None:  # type: ignore[misc] # Serve awaits it
        super().__init__(
            models,
            runs_dir,
            state_file,
            hold=self._hold_replica,
            swap_s=patience.swap_s,
            start_s=patience.start_s,
        )
        self._names = names
        await self.start()

    async def _hold_replica(self, pool: str) -> None:
        handle = serve.get_deployment_handle(self._names[pool], APP)
        while True:
            response = handle.hold.remote()
            try:
                await response
            except RayError as error:
                _log.warning("%s: its replica is lost, waiting for another: %s", pool, error)
            finally:
                response.cancel()
            await asyncio.sleep(1.0)
