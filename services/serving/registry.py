"""What every model name stands for, who has loaded it, and how that is changed: one at a time, replica by replica.

    promote ─▶ check ─▶ new target ─▶ [replicas report, are told to load it, one after the other] ─▶ state file ─▶ reply

Replicas report twice a second what they hold and are told what to load; so a new or restarted one finds the current checkpoint
by itself. When a replica cannot load a checkpoint, or it takes too long, all go back to the one before; an engine with half of
it is ended, and Serve starts another.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlft_core.errors import UserError
from rlft_core.serving.requests import error_content
from rlft_core.serving.state import Served, write_state
from rlft_core.serving.types import Checkpoint
from services.serving.routes import Reply, Route, Target, canary_of, holds_canaries, pools_of

_log = logging.getLogger(__name__)
_LOOK_S = 0.1


@dataclass(slots=True)
class _Replica:
    version: int
    heard: float
    pid: int


@dataclass(slots=True)
class _Pool:
    target: Target
    silent_s: float
    replicas: dict[str, _Replica] = field(default_factory=dict)
    turn: str | None = None
    failure: tuple[int, str] | None = None
    awaited: bool = False

    def alive(self, now: float) -> dict[str, _Replica]:
        """Those that were heard of lately. Whoever is gone in its turn may have died of what it loaded: that is a failure, or
        the others would follow it one by one."""
        self.replicas = {name: one for name, one in self.replicas.items() if now - one.heard < self.silent_s}
        if self.turn is not None and self.turn not in self.replicas:
            self.turn, self.failure = None, (self.target.version, "a replica was lost while it loaded it")
        return self.replicas


class Registry:
    """Holds `models`; runs are looked up in `runs_dir`, and what is put together for serving goes below `state_file`'s folder.

    A replica that said nothing for `silent_s` is not waited for. `hold` keeps a pool that may scale to zero from doing so, for
    as long as it is awaited: a canary's, while there is one. Public methods are coroutines: Serve runs plain ones in threads, and
    all of this belongs to one event loop.
    """

    def __init__(
        self,
        models: Sequence[Served],
        runs_dir: Path,
        state_file: Path,
        *,
        hold: Callable[[str], Coroutine[Any, Any, None]],
        swap_s: float,
        start_s: float,
        silent_s: float = 15.0,
    ) -> None:
        self._models = {served.name: served for served in models}
        self._runs_dir = runs_dir
        self._state_file = state_file
        self._hold = hold
        self._held: dict[str, asyncio.Task[None]] = {}
        self._swap_s = swap_s
        self._start_s = start_s
        self._changing: str | None = None
        self._change_task: asyncio.Task[Reply] | None = None
        self._pools: dict[str, _Pool] = {}
        self._pool_of: dict[str, str] = {}
        self._ranks: dict[str, int] = {}
        self._with_canaries: set[str] = set()
        self.draining = False
        for pool, group in pools_of(models).items():
            self._pool_of |= {served.name: pool for served in group}
            self._ranks[pool] = max(served.largest_rank for served in group)
            held = {served.name: served.current for served in group}
            if holds_canaries(group):
                held |= {canary_of(served.name): served.canary for served in group if served.canary is not None}
                self._with_canaries.add(pool)
            else:
                # Until there is a canary its pool has no requests and no replica; one that starts anyway holds what all hold.
                trying = {served.name: served.canary or served.current for served in group}
                self._pools[canary_of(pool)] = _Pool(_target(trying), silent_s)
            self._pools[pool] = _Pool(_target(held), silent_s)
        write_state(state_file, self._models)

    async def start(self) -> None:
        """Hold what a canary of before the start needs."""
        self._hold_canaries()

    async def wanted(self, pool: str) -> Target:
        """What a replica that starts shall load."""
        return self._pools[pool].target

    async def report(self, pool: str, replica: str, pid: int, version: int) -> Target | None:
        """A replica says what it holds; returns what it shall load now, if anything."""
        now, one = time.monotonic(), self._pools[pool]
        one.replicas[replica] = _Replica(version, now, pid)
        one.alive(now)
        if version == one.target.version:
            if one.turn == replica:
                one.turn = None
            return None
        failed = one.awaited and one.failure is not None and one.failure[0] == one.target.version
        if failed or one.turn not in (None, replica):
            return None
        one.turn = replica
        return one.target

    async def failed(self, pool: str, replica: str, version: int, message: str) -> None:
        """A replica could not load a target."""
        one = self._pools[pool]
        if one.turn == replica:
            one.turn = None
        one.failure = (version, message)
        _log.warning("%s: %s", replica, message)

    async def routes(self) -> list[Route]:
        """Where requests go now."""
        return [
            Route(s.name, s.current.kind, pool, canary_of(pool), s.current, s.canary, s.percent)
            for s in self._models.values()
            for pool in [self._pool_of[s.name]]
        ]

    async def overview(self) -> list[dict[str, Any]]:
        """For people: what each name stands for, and its replicas."""
        return [self._shown(served) for served in self._models.values()]

    async def promote(self, name: str, spec: str, percent: float) -> Reply:
        """Let a model name stand for another checkpoint, or try it on a share of the requests."""
        return await self._change(name, f"to {spec}", lambda served: self._promoted(served, spec, percent))

    async def rollback(self, name: str) -> Reply:
        """Undo the last promote."""

        async def back(served: Served) -> Served:
            return served.rolled_back()

        return await self._change(name, "back", back)

    async def _promoted(self, served: Served, spec: str, percent: float) -> Served:
        new = await asyncio.to_thread(self._found, spec, served)
        return served.promoted(new) if percent >= 100.0 else served.with_canary(new, percent)

    def _found(self, spec: str, served: Served) -> Checkpoint:
        """A checkpoint that can take the place of what is served. Raises UserError."""
        # They bring torch, for which a service that starts need not wait.
        from rlft_core.serving.checkpoints import find_checkpoint, parse_spec
        from rlft_core.serving.fit import check_fit

        exports, current = self._state_file.parent / "exports", served.current
        new = find_checkpoint(parse_spec(spec), self._runs_dir, exports, merged=not current.base)
        check_fit(new, current, max_rank=self._ranks[self._pool_of[served.name]])
        return new

    async def _change(self, name: str, what: str, step: Any) -> Reply:
        if name not in self._models:
            return _refused(404, f"there is no model '{name}'; there are: {', '.join(self._models)}", "model_not_found")
        if self._changing is not None:
            return _refused(409, f"{self._changing}; wait for its end and ask again", "change_in_progress")
        self._changing = f"model '{name}' is just being changed {what}"
        # A client that hangs up does not end it half way: Serve cancels the call, and whatever was asked for in its context.
        self._change_task = asyncio.create_task(self._changed(name, step), context=Context())
        return await asyncio.shield(self._change_task)

    async def _changed(self, name: str, step: Any) -> Reply:
        try:
            old = self._models[name]
            new = await step(old)
            told = await self._carry_out(old, new)
            if told is not None:
                return _refused(500, told, "not_changed")
            self._models[name] = new
            write_state(self._state_file, self._models)
            if old.canary is not None and new.canary is None:
                self._forget_canary(new)
            self._changing = None
            return Reply(200, self._shown(new))
        except UserError as error:
            return _refused(422, str(error), "not_servable")
        except Exception:
            _log.exception("model '%s' could not be changed", name)  # perhaps nobody waits for the answer any more
            raise
        finally:
            self._changing = None
            self._hold_canaries()

    async def _carry_out(self, old: Served, new: Served) -> str | None:
        """Have all replicas load what is new; None, or why they hold the old again."""
        pool, name = self._pool_of[old.name], old.name
        if new.canary is not None and new.canary != old.canary:
            if pool in self._with_canaries:
                return await self._retarget(pool, canary_of(name), new.canary, old.canary)
            before = old.canary or old.current
            return await self._retarget(canary_of(pool), name, new.canary, before, starts=True)
        if new.current != old.current or new.history != old.history:
            return await self._retarget(pool, name, new.current, old.current)
        return None

    async def _retarget(
        self, pool: str, name: str, new: Checkpoint, old: Checkpoint | None, *, starts: bool = False
    ) -> str | None:
        self._set_target(pool, name, new)
        if starts:
            self._hold_pool(pool)
        self._pools[pool].awaited = True
        try:
            told = await self._settled(pool, at_least=int(starts))
        except BaseException:
            self._set_target(pool, name, old)  # or replicas load what the registry does not know as current
            raise
        finally:
            self._pools[pool].awaited = False
        if told is None:
            return None
        self._set_target(pool, name, old)
        stays = f", and {old.label} stays" if old is not None else ""
        return f"{new.label} was not taken{stays}: {told}"

    def _set_target(self, pool: str, name: str, checkpoint: Checkpoint | None) -> None:
        models = {other: held for other, held in self._pools[pool].target.models.items() if other != name}
        self._pools[pool].target = _target(models if checkpoint is None else models | {name: checkpoint})

    def _forget_canary(self, served: Served) -> None:
        """An engine that held it beside others holds it no more; an engine of its own ends with its requests."""
        pool = self._pool_of[served.name]
        if pool in self._with_canaries:
            self._set_target(pool, canary_of(served.name), None)

    def _hold_pool(self, pool: str) -> None:
        if pool not in self._held:
            self._held[pool] = asyncio.ensure_future(self._hold(pool))

    def _hold_canaries(self) -> None:
        """Hold the pools of all canaries that are, and no others."""
        trying = {self._pool_of[served.name] for served in self._models.values() if served.canary is not None}
        wanted = {canary_of(pool) for pool in trying - self._with_canaries}
        for pool in set(self._held) - wanted:
            self._held.pop(pool).cancel()
        for pool in wanted:
            self._hold_pool(pool)

    async def _settled(self, pool: str, *, at_least: int) -> str | None:
        """Wait until every replica that lives, and so many, hold the target; None, or what went wrong."""
        one = self._pools[pool]
        version = one.target.version
        patience = self._swap_s + (self._start_s if at_least else 0.0)
        ends, most = time.monotonic() + patience, 0
        while True:
            alive = one.alive(time.monotonic())
            done = sum(replica.version == version for replica in alive.values())
            if done == len(alive) and done >= at_least:
                return None
            if one.failure is not None and one.failure[0] == version:
                return one.failure[1]
            if done > most:  # each has its own time
                ends, most = time.monotonic() + patience, done
            if time.monotonic() > ends:
                return f"{done} of {max(len(alive), at_least)} replicas had loaded it after {patience:g} s"
            await asyncio.sleep(_LOOK_S)

    def _shown(self, served: Served) -> dict[str, Any]:
        now, pool = time.monotonic(), self._pool_of[served.name]
        return {
            "model": served.name,
            "kind": served.current.kind,
            "checkpoint": served.current.label,
            "before": [checkpoint.label for checkpoint in served.history],
            "canary": None if served.canary is None else served.canary.label,
            "percent": served.percent,
            "shares_engines_with": [name for name, at in self._pool_of.items() if at == pool and name != served.name],
            "replicas": self._replicas(pool, now),
            "canary_replicas": self._canary_replicas(served, pool, now),
            "changing": self._changing,
        }

    def _canary_replicas(self, served: Served, pool: str, now: float) -> list[dict[str, Any]]:
        if pool in self._with_canaries:
            return self._replicas(pool, now) if served.canary is not None else []
        return self._replicas(canary_of(pool), now)

    def _replicas(self, pool: str, now: float) -> list[dict[str, Any]]:
        one = self._pools[pool]
        return [
            {"replica": name, "pid": replica.pid, "current": replica.version == one.target.version}
            for name, replica in sorted(one.alive(now).items())
        ]


def _target(models: Mapping[str, Checkpoint]) -> Target:
    return Target(time.time_ns(), models)


def _refused(status: int, message: str, code: str) -> Reply:
    return Reply(status, error_content(status, message, code=code))
