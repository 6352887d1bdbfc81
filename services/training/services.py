"""What the PPO loop holds: its parts, and the small things that hang off it so that they are not in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from rlft_core.batching.schedule import rows_of_step, sampling_seed
from rlft_core.errors import ConfigError, RunStopped, SamplesLost
from rlft_core.types import Prompt, Row
from services.control.desk import Desk, Hooks
from services.learner.learner import Learner
from services.learner.mailbox import LearnerRestarted
from services.observe.clock import covered
from services.observe.observer import StageObserver
from services.rollout.actor import SyncReport
from services.rollout.engine import Sampling
from services.rollout.fleet import Fleet, WeightsLost
from services.scoring.scorers import ScorerPool
from services.training.autoscale import Autoscale
from services.training.watch import Watch

_RETRY_S = 1.0
_MOST_ACTORS = 1024


@dataclass(frozen=True, slots=True)
class PromptSource:
    """The prompts of a step as a function of its number: rows, order and seeds never depend on what happened before."""

    rows: Sequence[Row]
    token_ids: Sequence[Sequence[int]]
    per_step: int
    num_samples: int
    run: str
    seed: int

    def batch(self, step: int) -> list[Prompt]:
        """The prompts of step `step`."""
        chosen = rows_of_step(step, num_rows=len(self.rows), per_step=self.per_step, seed=self.seed)
        return [
            Prompt(
                self.rows[row],
                tuple(self.token_ids[row]),
                self.num_samples,
                sampling_seed(self.run, self.seed, step, k),
            )
            for k, row in enumerate(chosen)
        ]


@dataclass(frozen=True, slots=True)
class LoopServices:
    """The parts of one PPO stage."""

    rollouts: Fleet
    scorer: ScorerPool
    learner: Learner
    watch: Watch
    prompts: PromptSource
    observe: StageObserver
    sampling: Sampling
    notice: Callable[[str], None]
    desk: Desk
    autoscale: Autoscale

    @property
    def stopped(self) -> bool:
        """Should no further step begin?"""
        return self.watch.stopped or self.desk.stopping

    def hooks(self) -> Hooks:
        """What can be done to the stage while it works. A stop is seen by the loop, between two steps."""

        async def stop() -> None:
            return None

        return Hooks(stop, self.scale, self.actors)

    def scale(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Change how many actors there are: {"rollouts": 3, "reward": 2, "judge": 2}. Raises ConfigError.

        Returns {what: {"from", "to"}}; newcomers are starting, leavers finish what they were asked.
        """
        resizable = {"rollouts": self.rollouts, **self.scorer.resizable()}
        for what, size in wanted.items():
            if what not in resizable:
                raise ConfigError(f"this stage has no actors '{what}' of its own; it has {', '.join(resizable)}")
            if not isinstance(size, int) or not 1 <= size <= _MOST_ACTORS:
                raise ConfigError(f"{what}: {size} is no number of actors from 1 to {_MOST_ACTORS}")
        told = {what: {"from": resizable[what].size, "to": size} for what, size in wanted.items()}
        for what, size in wanted.items():
            resizable[what].resize(size)
        return told

    def actors(self) -> list[dict[str, Any]]:
        """Every actor of the stage as `rlft status` shows it."""
        return [*self.rollouts.actors(), *self.scorer.actors(), *self.learner.actors()]

    async def start(self) -> int:
        """Wait for engines, scorers and learner, which start side by side; returns the step the learner stands at."""
        learner = asyncio.ensure_future(self.learner.start())
        try:
            await asyncio.gather(self.rollouts.start(), self.scorer.start())
            return await learner
        finally:
            learner.cancel()

    async def sync(self) -> list[SyncReport]:
        """Give the engines the learner's newest weights. Raises LearnerRestarted, SyncError or EngineError.

        A learner that dies while its weights are on the way comes back with weights of its own: wait for these.
        """
        self.autoscale.look(self.observe.progress)
        told = False
        while True:
            publication = await self.learner.publication()
            try:
                return await self.rollouts.load(publication)
            except WeightsLost as lost:
                if not told:
                    self.notice(str(lost).splitlines()[0])
                told = True
                await asyncio.sleep(_RETRY_S)

    async def scored(self, prompt: Prompt, group: asyncio.Future[ray.ObjectRef]) -> ray.ObjectRef:
        """The ref of the ScoredGroup of a prompt. Samples that are lost with a node are drawn again, from the same seeds."""
        while True:
            try:
                return await self.scorer.score(await group)
            except SamplesLost as lost:
                self.notice(f"row '{prompt.row.id}': {lost}; it is sampled again")
                (group,) = self.rollouts.generate([prompt], self.sampling)

    async def finish(self, step: int) -> None:
        """Look at the last model and let the learner end. Raises LearnerError when it does not end well, RunStopped when
        steps are left because the run should stop."""
        if self.desk.stopping and step < self.watch.num_steps and not self.watch.stopped:
            try:
                await self.learner.save()
            except LearnerRestarted as restart:
                raise RunStopped(f"stopped; {restart}, where it goes on when it is started again") from restart
            raise RunStopped(f"stopped after step {step} of {self.watch.num_steps}; its checkpoint is written")
        if self.watch.config is not None and not self.watch.stopped:
            try:
                await self.sync()
                await self.learner.unless_restarted(self.watch.look(step))
            except LearnerRestarted as restart:  # its model is written; only what the watch makes of it is lost
                self.notice(f"{restart} after its last step, which was not looked at")
        await self.learner.finish()

    async def stop(self) -> None:
        """End all parts, whatever they are doing."""
        await self.learner.stop()
        await self.rollouts.stop()
        await self.scorer.stop()

    def metrics(self, reports: Sequence[SyncReport]) -> dict[str, float]:
        """What the services know of a step beside the learner's metrics."""
        busy = covered([*self.rollouts.spans, *self.scorer.spans])
        self.rollouts.spans.clear()
        self.scorer.spans.clear()
        found = {
            "time/sampling_busy_s": busy,
            "engines/healthy": float(sum(state == "healthy" for state in self.rollouts.states().values())),
            "engines/restarts": float(self.rollouts.num_restarts),
        }
        if reports:
            found |= {
                "sync/seconds": max(report.seconds for report in reports),
                "sync/bytes": float(reports[0].num_bytes),
                "sync/probe": max(report.probe_mean for report in reports),
                "sync/probe_max": max(report.probe_max for report in reports),
            }
        return found

    async def log_samples(self, step: int, scored: Sequence[ray.ObjectRef]) -> None:
        """Write the texts of a due step."""
        if not self.observe.wants_samples(step):
            return
        try:
            self.observe.samples(step, await self.scorer.records(scored))
        except SamplesLost as lost:  # the learner has had them; only what a person might read is lost
            self.notice(f"samples of step {step} are not in samples.jsonl: {lost}")
