"""The engines of a stage: prompts in, refs to groups out; restarts what dies, admits only what is proven current.

    generate ─▶ engine (HEALTHY, wanted version) ─▶ ref
        │ died, hung
        ▼
    DEAD ─▶ RESTARTING ─▶ STALE ─▶ load + probe ─▶ HEALTHY; its unanswered prompts are asked again, elsewhere or there

Lives in the coordinator's event loop. Never fetches a group: it waits for the small summary beside it.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from rlft_core.errors import DeadlineError, EngineError, RlftError, SamplesLost, ServiceError, SyncError
from rlft_core.types import Prompt
from services.cluster.waiting import is_loss, within
from services.rollout.actor import GroupSummary, SyncReport, Ticket
from services.rollout.engine import Sampling
from services.rollout.judging import Judging
from services.rollout.member import FleetLimits, Member, reason_of, wait_for
from services.rollout.states import EngineState
from services.weights.publication import Publication

T = TypeVar("T")


class WeightsLost(ServiceError):
    """The chunks of a publication are gone, because the learner that held them died. It will publish again."""


_LOOK_EVERY_S = 0.05

ActorFactory = Callable[[str, int], ray.actor.ActorHandle]
"""(name, incarnation) -> a new engine actor."""


class Fleet:
    """Engines behind one `generate` and one `load`. `spans`: when engines worked on groups; the reader empties it.

    `frozen`: they keep the weights that they start with, and nothing is loaded.
    """

    def __init__(
        self,
        names: Sequence[str],
        create: ActorFactory,
        *,
        limits: FleetLimits,
        notice: Callable[[str], None],
        frozen: bool = False,
    ) -> None:
        self._create = create
        self._limits = limits
        self._notice = notice
        self._frozen = frozen
        self._members = [Member(name, create(name, 0)) for name in names]
        self._next = len(names)
        self._changed = asyncio.Condition()
        self._batches = itertools.count()
        self._publication: Publication | None = None
        self._gone: Publication | None = None  # its weights are lost; who needs them waits for the next
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopped = False
        self.num_restarts = 0
        self.spans: list[tuple[float, float]] = []

    async def start(self) -> None:
        """Wait until every engine answers. Raises EngineError or DeadlineError."""
        await asyncio.gather(*(self._await_start(member) for member in self._members))

    async def info(self) -> list[dict[str, Any]]:
        """Process, node and version of every engine that is not dead or restarting."""
        living = [m for m in self._members if m.state not in (EngineState.DEAD, EngineState.RESTARTING)]
        calls = [wait_for(m.handle.info.remote()) for m in living]
        return list(await within(self._limits.start_s, asyncio.gather(*calls), actor="fleet", phase="info"))

    async def load(self, publication: Publication) -> list[SyncReport]:
        """Give every living engine these weights and admit those whose probe agrees; a frozen fleet takes none.

        Raises SyncError when a probe differs by more than the tolerance, WeightsLost when the weights are gone before
        every engine has them, EngineError when no engine is left.
        """
        if self._frozen:
            return []
        self._publication = publication
        living = [m for m in self._members if m.state in (EngineState.STALE, EngineState.HEALTHY)]
        reports = await asyncio.gather(*(self._load_one(member) for member in living))
        done = [report for report in reports if report is not None]
        if not done:
            await self._choose(publication)  # all are restarting: wait for one, or learn that none will come
        return done

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[asyncio.Task[ray.ObjectRef]]:
        """One task for each prompt; its result is the ref of the RolloutGroup, which stays where it was made."""
        batch = self._spawn(self._place(prompts))
        return [self._spawn(self._sample(prompt, k, batch, sampling)) for k, prompt in enumerate(prompts)]

    async def judge(self, group: ray.ObjectRef, judging: Judging) -> ray.ObjectRef:
        """The ref of the GivenScores of a group. Asked again, whole, elsewhere or there, when its engine dies.

        Raises JudgeError, SamplesLost when the group is gone, or EngineError when no engine is left.
        """
        while True:
            member = await self._choose()
            incarnation = member.incarnation
            try:
                return await self._answered(member, member.handle.judge.remote(group, judging), "judge")
            except (RayActorError, DeadlineError, RayTaskError) as error:
                if is_loss(error):
                    raise SamplesLost("a group that was to be judged is gone with the node that held it") from error
                self._raise_or_bury(member, incarnation, "judge", error)

    def states(self) -> dict[str, str]:
        """Name and state of every engine."""
        return {member.name: member.state.value for member in self._members}

    def actors(self, kind: str = "engine") -> list[dict[str, Any]]:
        """Every engine with its state and place, as `rlft status` shows it."""
        return [
            {"name": m.name, "kind": kind, "state": m.state.value, "node": m.node[:8], "pid": m.pid}
            for m in self._members
        ]

    @property
    def size(self) -> int:
        """Engines that are wanted, whatever their state."""
        return sum(not member.leaving for member in self._members)

    def resize(self, size: int) -> None:
        """Have `size` engines, 1 at least. Returns at once; nothing that is under way waits for it.

        Newcomers get requests when they hold the newest weights and their probe agreed; one that cannot start is given up,
        with a notice. Leavers answer what they were asked; what one of them cannot answer is asked elsewhere.
        """
        staying = [member for member in self._members if not member.leaving]
        kind = staying[0].name.rsplit("-", 1)[0]
        for _ in range(len(staying), size):
            name = f"{kind}-{self._next}"
            self._next += 1
            newcomer = Member(name, self._create(name, 0))
            self._members.append(newcomer)
            self._spawn(self._join(newcomer))
        # Those that serve nobody go first, then the youngest: the oldest hold the fullest prefix caches.
        leavers = sorted(enumerate(staying), key=lambda pair: (pair[1].state is EngineState.HEALTHY, -pair[0]))
        for _, member in leavers[: max(0, len(staying) - max(size, 1))]:
            member.move(EngineState.LEAVING)
            self._spawn(self._leave(member))

    async def stop(self) -> None:
        """End all engines and everything that is asked of them."""
        self._stopped = True  # first, or whoever waits for an engine would take its end for a death and start a new one
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._tell()
        for member in self._members:
            ray.kill(member.handle, no_restart=True)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that `stop` cancels."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _place(self, prompts: Sequence[Prompt]) -> list[tuple[Member, Ticket]]:
        """Share a batch among the healthy engines; each engine admits its part at once."""
        await self._choose()
        healthy = [m for m in self._members if m.state is EngineState.HEALTHY]
        number = next(self._batches)
        owner = [healthy[k % len(healthy)] for k in range(len(prompts))]
        places: list[tuple[Member, Ticket]] = []
        for k, member in enumerate(owner):
            size = sum(other is member for other in owner)
            index = sum(other is member for other in owner[:k])
            places.append((member, Ticket(f"{number}-{member.name}", index, size)))
        return places

    async def _sample(
        self, prompt: Prompt, k: int, batch: asyncio.Future[list[tuple[Member, Ticket]]], sampling: Sampling
    ) -> ray.ObjectRef:
        member, ticket = (await batch)[k]
        while True:
            incarnation = member.incarnation
            try:
                asked = member.handle.generate.remote(prompt, sampling, ticket)
                return await self._answered(member, asked, "generate")
            except (RayActorError, DeadlineError, RayTaskError) as error:
                self._raise_or_bury(member, incarnation, "generate", error)
            member = await self._choose()
            ticket = Ticket(f"{next(self._batches)}-{member.name}", 0, 1)

    async def _answered(self, member: Member, asked: tuple[ray.ObjectRef, ray.ObjectRef], phase: str) -> ray.ObjectRef:
        """The second of two refs, when the first, a summary, is there."""
        summary, result = asked
        member.inflight += 1
        try:
            found: GroupSummary = await within(
                self._limits.request_s,
                wait_for(summary),
                actor=f"engine {member.name}",
                phase=phase,
                progress=lambda: f"{member.inflight} groups in flight",
            )
        finally:
            member.inflight -= 1
        self.spans.append(found.span)
        return result

    def _raise_or_bury(self, member: Member, incarnation: int, phase: str, error: BaseException) -> None:
        """Raise what a person can mend; anything else was the engine's death."""
        if isinstance(error, RayTaskError) and isinstance(error.cause, RlftError):
            raise error.cause from None
        self._bury(member, incarnation, phase, error)

    async def _choose(self, loading: Publication | None = None) -> Member:
        """The healthy engine with the fewest groups in flight; waits for a restart when there is none, but not for weights
        that are gone."""
        async with self._changed:
            while True:
                if self._stopped:
                    raise EngineError("the engines were stopped")
                healthy = [m for m in self._members if m.state is EngineState.HEALTHY]
                if healthy:
                    return min(healthy, key=lambda m: m.inflight)
                if loading is not None and self._gone is loading:
                    raise WeightsLost(f"weights version {loading.version} are gone, and no engine has them")
                if all(m.state in (EngineState.DEAD, EngineState.LEAVING) for m in self._members):
                    raise EngineError(
                        f"no engine is left ({', '.join(self.states())}): each was restarted {self._limits.max_restarts} times "
                        "(rollout.max_restarts); the engines' logs say why they died"
                    )
                await within(
                    self._limits.start_s,
                    self._changed.wait(),
                    actor="fleet",
                    phase="waiting for a healthy engine",
                    progress=lambda: ", ".join(f"{n}: {s}" for n, s in self.states().items()),
                )

    async def _await_start(self, member: Member) -> None:
        asked = wait_for(member.handle.info.remote())
        try:
            info = await within(self._limits.start_s, asked, actor=f"engine {member.name}", phase="start")
        except (RayActorError, RayTaskError) as error:
            raise EngineError(f"engine {member.name} could not start: {reason_of(error)}") from error
        member.node, member.pid = info["node"], info["pid"]
        if member.leaving:
            return
        member.move(EngineState.STALE)
        if self._frozen:
            member.move(EngineState.HEALTHY)
            await self._tell()

    async def _load_one(self, member: Member) -> SyncReport | None:
        """The newest weights into one engine, one load at a time; None when it is not alive afterwards."""
        async with member.loading:
            if member.state not in (EngineState.STALE, EngineState.HEALTHY):
                return None
            if member.state is EngineState.HEALTHY:
                member.move(EngineState.STALE)
            publication = self._publication
            assert publication is not None
            report = await self._send(member, publication)
            if report is None:
                return None
            self._check(member, report)
            member.move(EngineState.HEALTHY)
        await self._tell()
        return report

    async def _send(self, member: Member, publication: Publication) -> SyncReport | None:
        """What the engine makes of the weights; None when it died of them, or has died or is leaving since it was asked."""
        incarnation = member.incarnation
        try:
            report: SyncReport = await within(
                self._limits.sync_s,
                wait_for(member.handle.load.remote(publication.manifest, list(publication.chunks), publication.probe)),
                actor=f"engine {member.name}",
                phase=f"loading weights version {publication.version}",
            )
        except (RayActorError, DeadlineError, RayTaskError) as error:
            cause = error.cause if isinstance(error, RayTaskError) else None
            if isinstance(cause, ObjectLostError):
                self._gone = publication
                self._spawn(self._tell())
                raise WeightsLost(f"weights version {publication.version} are gone: {cause}") from None
            if not member.awaits_weights(incarnation):
                return None
            if isinstance(cause, RlftError):
                member.move(EngineState.SUSPECT)
                raise cause from None
            self._bury(member, incarnation, "load", error)
            return None
        return report if member.awaits_weights(incarnation) else None

    async def _tell(self) -> None:
        """Wake those who wait for an engine."""
        async with self._changed:
            self._changed.notify_all()

    def _check(self, member: Member, report: SyncReport) -> None:
        if not report.probe_mean <= self._limits.probe_tolerance:
            member.move(EngineState.SUSPECT)
            raise SyncError(
                f"engine {member.name} does not hold weights version {report.version}: on the probe its log-probs differ from "
                f"the learner's by {report.probe_mean:.4f} nats a token on average, {report.probe_max:.4f} at most; allowed is "
                f"{self._limits.probe_tolerance:g} (rollout.probe_tolerance). Its samples would be off-policy unseen"
            )

    def _bury(self, member: Member, incarnation: int, phase: str, error: BaseException) -> None:
        """Mark an engine dead once for each life, and start its next life if it has one left."""
        if self._stopped or member.incarnation != incarnation or member.state is EngineState.DEAD:
            return
        if member.leaving:
            if member in self._members:  # or it has left, which is no death
                self._notice(
                    f"engine {member.name}, which was leaving, died in '{phase}'; what it owed is asked elsewhere"
                )
            return
        if member.state is EngineState.HEALTHY and isinstance(error, DeadlineError):
            member.move(EngineState.SUSPECT)
        member.move(EngineState.DEAD)
        ray.kill(member.handle, no_restart=True)
        self._notice(f"engine {member.name} died in '{phase}': {reason_of(error)}")
        if member.incarnation >= self._limits.max_restarts:
            self._notice(f"engine {member.name} was restarted {member.incarnation} times already; it stays dead")
            self._spawn(self._tell())
            return
        member.incarnation += 1
        self.num_restarts += 1
        member.move(EngineState.RESTARTING)
        self._spawn(self._restart(member))

    async def _join(self, member: Member) -> None:
        """A newcomer's way to its first request."""
        started = time.monotonic()
        try:
            await self._await_start(member)
            if self._publication is not None:
                await self._load_one(member)
        except WeightsLost:
            return  # stale until the next load
        except ServiceError as error:
            if not member.leaving:
                self._notice(f"engine {member.name} was asked for and is given up: {error}")
                self._dismiss(member)
            return
        if member.state is EngineState.HEALTHY:
            self._notice(f"engine {member.name} joined after {time.monotonic() - started:.1f} s")

    async def _leave(self, member: Member) -> None:
        """Wait until an engine owes nothing, then end it."""
        deadline = time.monotonic() + self._limits.request_s
        await asyncio.sleep(_LOOK_EVERY_S)  # whoever was given it by a batch asks now
        while member.inflight and time.monotonic() < deadline:
            await asyncio.sleep(_LOOK_EVERY_S)
        self._dismiss(member)
        self._notice(f"engine {member.name} left")

    def _dismiss(self, member: Member) -> None:
        """End an engine's process and forget it; what it still owes is asked elsewhere."""
        self._members.remove(member)
        ray.kill(member.handle, no_restart=True)
        self._spawn(self._tell())

    async def _restart(self, member: Member) -> None:
        """Begin an engine's next life. One that cannot start, or holds wrong weights, has lost that life too."""
        started, incarnation = time.monotonic(), member.incarnation
        member.handle = self._create(member.name, incarnation)
        try:
            await self._await_start(member)
            if self._publication is not None:
                await self._load_one(member)
        except WeightsLost:
            return  # stale until the next load
        except ServiceError as error:
            self._bury(member, incarnation, "restart", error)
        if member.state is EngineState.HEALTHY:
            self._notice(f"engine {member.name} is back after {time.monotonic() - started:.1f} s")
