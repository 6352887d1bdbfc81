"""The coordinator's handle of a learner: start it, hand it steps, learn of its death at once.

`TorchTrainer.fit()` runs in a thread beside the event loop. Every wait is a wait for the answer *or* for the end of
`fit`, whichever comes first, so a dead learner is an error and never a hang.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlft_core.config.training import LearnerConfig
from rlft_core.errors import DeadlineError, LearnerError, RlftError
from services.cluster.waiting import within
from services.learner.mailbox import Mailbox, Standing
from services.weights.publication import Publication

T = TypeVar("T")

START_DEADLINE_S = 900.0
STOP_DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the ranks run: on GPUs or not, and the environment of their processes."""

    use_gpu: bool
    env: Mapping[str, str]


class Learner:
    """One stage's learner. `job` is handed to `train_loop` on every rank, with the mailbox added."""

    def __init__(
        self,
        train_loop: Callable[[dict[str, Any]], None],
        job: Mapping[str, Any],
        *,
        name: str,
        config: LearnerConfig,
        placement: Placement,
        storage: Path,
        notice: Callable[[str], None],
    ) -> None:
        self._config = config
        self._notice = notice
        # Beside the coordinator: it would not survive that node's end, and need not survive another's.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        mailbox = ray.remote(num_cpus=0, max_concurrency=1000, scheduling_strategy=here)(Mailbox)
        self._mailbox = mailbox.remote()
        self._trainer = TorchTrainer(
            train_loop,
            train_loop_config={**job, "mailbox": self._mailbox},
            torch_config=TorchConfig(backend="nccl" if placement.use_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=config.num_ranks,
                use_gpu=placement.use_gpu,
                resources_per_worker={"CPU": config.cpus_per_rank, **({"GPU": 1} if placement.use_gpu else {})},
            ),
            run_config=RunConfig(
                name=name,
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=config.max_restarts),
                worker_runtime_env={"env_vars": dict(placement.env)},
            ),
        )
        self._fit: asyncio.Future[Any] | None = None
        self._restarts = 0
        self._restart: asyncio.Future[int] | None = None  # one question to the mailbox, whoever waits for its answer
        self.standing: Standing | None = None
        self.world_size = config.num_ranks

    async def start(self) -> int:
        """Start the ranks; returns the step at which they stand: 0, or that of their latest checkpoint."""
        self._fit = _in_daemon_thread(self._trainer.fit)
        standing: Standing = await self._call(self._mailbox.standing.remote(), START_DEADLINE_S, "start")
        for note in standing.notes:
            self._notice(note)
        self.standing = standing
        return standing.step

    async def publication(self) -> Publication:
        """The newest weights. Raises LearnerRestarted when they are not those of the last update."""
        (publication,) = await self._call(
            self._mailbox.latest.remote(), self._config.step_deadline_s, "publish weights"
        )
        found: Publication = publication
        return found

    async def update(self, step: int, shards: Sequence[Sequence[ray.ObjectRef]]) -> Mapping[str, float]:
        """One step; `shards` holds the refs of each rank. Raises LearnerRestarted, LearnerError or DeadlineError."""
        ref = self._mailbox.deliver.remote(step, [list(shard) for shard in shards])
        metrics: Mapping[str, float] = await self._call(ref, self._config.step_deadline_s, f"update of step {step}")
        return metrics

    async def unless_restarted(self, work: Awaitable[T]) -> T:
        """What `work` gives; LearnerRestarted as soon as the learner has been, LearnerError when it has ended.

        For work that needs the learner though it asks it nothing: an engine that is started again takes its weights from
        it, and when both died with one node, those of the learner that is gone will never come.
        """
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                if self._restart is None:
                    asked = self._mailbox.restarts.remote(self._restarts)
                    self._restart = asyncio.ensure_future(self._call(asked, None, "watching for a restart"))
                either: set[asyncio.Future[Any]] = {task, self._restart}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if self._restart.done() and not task.done():
                    seen, self._restart = self._restart, None
                    self._restarts = seen.result()
                    await self._call(self._mailbox.check.remote(), self._config.step_deadline_s, "a restart")
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def keep(self, name: str) -> None:
        """Write the model as it is now to stages/<stage>/<name>. Raises LearnerRestarted, LearnerError or DeadlineError."""
        await self._call(self._mailbox.keep.remote(name), self._config.step_deadline_s, f"keeping {name}")

    async def save(self) -> None:
        """Write a checkpoint of the step where it stands. Raises LearnerRestarted, LearnerError or DeadlineError."""
        await self._call(self._mailbox.save.remote(), self._config.step_deadline_s, "a last checkpoint")

    async def halt(self) -> None:
        """Have a learner that takes its steps by itself save after the one it is at, and end."""
        await self._call(self._mailbox.halt.remote(), STOP_DEADLINE_S, "halt")

    async def halted(self) -> bool:
        """Did it end because it was to halt, before its last step?"""
        return bool(
            await within(STOP_DEADLINE_S, _wait(self._mailbox.halted.remote()), actor="learner mailbox", phase="halted")
        )

    async def progress(self) -> AsyncIterator[tuple[int, Mapping[str, float]]]:
        """Steps of a supervised stage as they are done; ends when the learner has ended well."""
        assert self._fit is not None
        seen = 0
        while True:
            new = await self._call(self._mailbox.progress.remote(seen), self._config.step_deadline_s, "a training step")
            if not new:
                return
            seen += len(new)
            for step, metrics in new:
                yield step, metrics

    async def finish(self) -> None:
        """Let the ranks write their last files and end. Raises LearnerError when they did not end well."""
        assert self._fit is not None
        self._look_away()
        await within(60.0, _wait(self._mailbox.close.remote()), actor="learner mailbox", phase="close")
        await asyncio.wait({self._fit}, timeout=self._config.step_deadline_s)
        if not self._fit.done():
            raise LearnerError(f"the learner did not end within {self._config.step_deadline_s:g} s after its last step")
        if (error := self._fit.exception()) is not None:
            raise _cause(error)

    async def stop(self) -> None:
        """Let go of a learner whose work is no longer wanted; one that has ended already is left as it is."""
        self._look_away()
        if self._fit is None or self._fit.done():
            return
        await within(STOP_DEADLINE_S, _wait(self._mailbox.close.remote()), actor="learner mailbox", phase="close")
        await asyncio.wait({self._fit}, timeout=STOP_DEADLINE_S)

    def actors(self) -> list[dict[str, Any]]:
        """The ranks as `rlft status` shows them."""
        found = self.standing
        if found is None:
            return [{"name": "learner", "kind": "learner", "state": "starting", "node": "", "pid": 0}]
        state = "ended" if self._fit is not None and self._fit.done() else "healthy"
        return [
            {"name": f"rank-{rank}", "kind": "learner", "state": state, "node": "", "pid": pid}
            for rank, pid in enumerate(found.pids)
        ]

    def _look_away(self) -> None:
        """From now on its end is no surprise."""
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None

    async def _call(self, ref: ray.ObjectRef, seconds: float | None, phase: str) -> Any:
        assert self._fit is not None
        call = asyncio.ensure_future(_wait(ref))
        done, _ = await asyncio.wait({call, self._fit}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if call in done:
            try:
                return call.result()
            except RayTaskError as error:
                raise error.cause if isinstance(error.cause, RlftError) else error from None
            except RayActorError as error:
                raise LearnerError(f"the learner's mailbox died in '{phase}': {error}") from error
        call.cancel()
        if self._fit in done:
            ended = self._fit.exception()
            raise _cause(ended) if ended is not None else LearnerError(f"the learner ended before '{phase}' was done")
        raise DeadlineError(f"the learner did not finish '{phase}' within {seconds:g} s; it started as {self.standing}")


def _cause(error: BaseException) -> BaseException:
    """What really went wrong on a rank, out of Ray Train's wrapping."""
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {})
    for failure in failures.values():
        inner = failure.cause if isinstance(failure, RayTaskError) else failure
        if isinstance(inner, RlftError):
            return inner
    described = "; ".join(f"rank {rank}: {type(e).__name__}: {_last_line(e)}" for rank, e in failures.items())
    return LearnerError(
        f"the learner failed and was not restarted again (learner.max_restarts): {described or _last_line(error)}"
    )


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


async def _wait(ref: ray.ObjectRef) -> Any:
    return await ref


def _in_daemon_thread(function: Callable[[], Any]) -> asyncio.Future[Any]:
    """Like `asyncio.to_thread`, but an event loop that ends does not wait for it: a learner that hangs must not keep a
    failed run alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
            future.exception()  # mark it as seen: whoever waits raises it, and nobody may be waiting any more

    def work() -> None:
        result, error = None, None
        try:
            result = function()
        except BaseException as caught:  # noqa: BLE001 - whatever ended it is handed to those who wait
            error = caught
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="learner", daemon=True).start()
    return future
