"""The generate-score-update cycle.

    prompts ─▶ rollouts.generate ─▶ refs ─▶ scorer.score ─▶ refs ─▶ learner.update ─▶ new weights ─▶ rollouts.load ─▶ ...

This process never holds a sampled token: it moves object refs and reads small summaries. With `max_lag` 0 every sample
comes from the newest weights; with `max_lag` k, k further batches are being sampled while the learner works.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import ray

from rlft_core.batching.sharding import split_evenly
from rlft_core.config.online import OnlineStage
from rlft_core.types import Prompt
from services.learner.mailbox import LearnerRestarted
from services.training.services import LoopServices

Inflight = deque[asyncio.Future[list[ray.ObjectRef]]]


async def run_loop(stage: OnlineStage, services: LoopServices) -> None:
    """Run all steps that are left. The tuned model and its checkpoints are in the learner's folder afterwards.

    Raises RunStopped, with a last checkpoint written, when the run was asked to stop.
    """
    learner, prompts, observe = services.learner, services.prompts, services.observe
    step = await services.start()  # 0, or that of the learner's latest checkpoint
    async with sampled_ahead() as inflight:
        while step < stage.num_steps and not services.stopped:
            with observe.step(step) as clock:
                try:
                    with clock("sync"):
                        reports = await services.sync()  # admits an engine only after its parity probe
                    with clock("watch"):
                        await learner.unless_restarted(services.watch.look(step))
                    with clock("generate"):
                        while len(inflight) <= min(stage.max_lag, stage.num_steps - 1 - step):
                            batch = prompts.batch(step + len(inflight))
                            inflight.append(asyncio.ensure_future(generate_and_score(batch, services)))
                        scored = await learner.unless_restarted(inflight.popleft())
                    with clock("update"):
                        shards = split_evenly(scored, learner.world_size)
                        metrics = await learner.update(step, shards)
                except LearnerRestarted as restart:
                    services.notice(f"{restart}; {step - restart.step} step(s) are done again")
                    await cancel(inflight)
                    step = restart.step
                    continue
                clock.record({**metrics, **services.metrics(reports)})
                await services.log_samples(step, scored)
            step += 1
    await services.finish(step)


async def generate_and_score(batch: list[Prompt], services: LoopServices) -> list[ray.ObjectRef]:
    """Refs of the ScoredGroups of a batch, in its order. Each group is scored as soon as it is sampled."""
    groups = services.rollouts.generate(batch, services.sampling)
    return list(await asyncio.gather(*map(services.scored, batch, groups)))


@asynccontextmanager
async def sampled_ahead() -> AsyncIterator[Inflight]:
    """Room for the batches of this step and later ones; what is left in it when the loop ends, or fails, is given up."""
    inflight: Inflight = deque()
    try:
        yield inflight
    finally:
        await cancel(inflight)


async def cancel(inflight: Inflight) -> None:
    """Forget batches that were sampled for steps that will be done again, or not at all."""
    for task in inflight:
        task.cancel()
    await asyncio.gather(*inflight, return_exceptions=True)
    inflight.clear()
