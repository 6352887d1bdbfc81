"""Where a run that works is spoken to: carries out what stands in its folder's `control/`, and knows that it should stop.

    requests.ask(...) ─▶ control/ ─▶ Desk.attend ─▶ the hooks of the stage that is running

Lives in the coordinator's event loop, between the steps. A stage says what can be done to it with `Desk.stage`; a stage that
has no graceful end, such as an evaluation, is ended at once: it has nothing to lose.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlft_core.errors import RlftError, RunStopped, UserError
from services.control.requests import Request, answer, waiting

_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Hooks:
    """What can be done to a stage. `stop` has it end after its step; `scale` takes {"rollouts": n, ...} and says what is there
    and what is wanted; `actors` lists {"name", "kind", "state", "node", "pid"}."""

    stop: Callable[[], Awaitable[None]] | None = None
    scale: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    actors: Callable[[], list[dict[str, Any]]] = list


@dataclass(slots=True)
class Desk:
    """One run's. `stopping`: it was asked to; loops look at it between two steps. `notice` hears what stands in the way."""

    run: Path
    notice: Callable[[str], None]
    stopping: bool = False
    hooks: Hooks = field(default_factory=Hooks)
    _work: asyncio.Task[None] | None = None
    _stage: str = ""
    _said: dict[str, dict[str, Any]] = field(default_factory=dict)  # by request; written or not, it was carried out
    _troubled: set[str] = field(default_factory=set)

    @contextmanager
    def stage(self, name: str, hooks: Hooks) -> Iterator[None]:
        """For the time of a stage: what can be done to it."""
        self._stage, self.hooks = name, hooks
        try:
            yield
        finally:
            self._stage, self.hooks = "", Hooks()

    async def attend(self, work: asyncio.Task[None]) -> None:
        """Answer requests until cancelled; `work` is what a stop ends."""
        self._work = work
        while True:
            for request in waiting(self.run, self._trouble):
                if request.id not in self._said:  # a stop that is carried out again would be a second one
                    self._said[request.id] = await self._answered(request)
                self._reply(request)
            await asyncio.sleep(_LOOK_EVERY_S)

    def between(self, *, before: str) -> None:
        """Look at requests while no stage is at work, such as one that waits for room. Raises RunStopped when it should stop."""
        for request in waiting(self.run, self._trouble):
            if request.verb == "stop":
                self.stopping = True
                self._said[request.id] = {"told": f"it ends before {before}"}
            else:
                self._said.setdefault(request.id, {"refused": f"{before} is not at work yet; ask again when it is"})
            self._reply(request)
        if self.stopping:
            raise RunStopped(f"stopped before {before}")

    async def stop(self, *, now: bool = False) -> str:
        """Stop after the step that is under way; at once with `now`, when asked a second time, and where there are no steps."""
        again = self.stopping
        self.stopping = True
        if not now and not again and self.hooks.stop is not None:
            await self.hooks.stop()
            return f"{self._stage} ends after its step, with a checkpoint; asked again, it ends at once"
        assert self._work is not None
        self._work.cancel()
        return "it ends at once"

    def _reply(self, request: Request) -> None:
        try:
            answer(self.run, request, self._said[request.id])
        except OSError as error:
            self._trouble(request.id, error)

    def _trouble(self, name: str, error: OSError) -> None:
        """Say once for each request what stands in its way; it is tried again at the next look."""
        if name not in self._troubled:
            self._troubled.add(name)
            what = f"request {name}" if name else "requests to this run"
            self.notice(f"{what} cannot be read or answered just now: {error}. It is tried again")

    async def _answered(self, request: Request) -> dict[str, Any]:
        try:
            if request.verb == "stop":
                return {"told": await self.stop(now=bool(request.arguments.get("now")))}
            if request.verb == "scale":
                return self._scaled(request.arguments)
        except UserError as error:
            return {"refused": str(error)}
        except (RlftError, OSError) as error:
            return {"refused": f"the run could not do it: {error}"}
        return {"refused": f"a run knows 'stop' and 'scale', not '{request.verb}'"}

    def _scaled(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        if self.hooks.scale is None:
            raise UserError(
                f"nothing of stage '{self._stage or 'none'}' can be scaled: only stages with engines that go on while a model "
                "is trained (ppo, online_dpo) have actors that come and go"
            )
        return self.hooks.scale(wanted)
