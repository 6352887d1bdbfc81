"""The body of a supervised learner, run on every rank under Ray Train: same model, packing and checkpoints as PPO."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import ray

from rlft_core.batching.schedule import rows_of_step
from rlft_core.batching.sharing import Pair
from rlft_core.config.stages import SftStage
from rlft_core.errors import ModelError
from rlft_core.updates.optimizer import make_optimizer
from rlft_core.updates.sft import SftState, sft_update, validation_loss
from services.learner.entry import Job
from services.learner.rank import choose_compute, layers_of, load_policy, prepare_rank, shard, standing, told_to
from services.learner.saving import BEST, Facts, export, goes_on, promote, restore

VALIDATION = "loss/validation"


@dataclass(frozen=True, slots=True)
class Best:
    """The lowest validation loss so far, after which step it was measured, and the measurements since without a lower."""

    loss: float = math.inf
    step: int = -1
    misses: int = 0

    def after(self, step: int, loss: float | None) -> Best:
        """With what was measured after `step` steps; None: nothing."""
        if loss is None:
            return self
        return Best(loss, step) if loss < self.loss else replace(self, misses=self.misses + 1)

    def facts(self) -> Facts:
        """For a checkpoint."""
        return {"best": asdict(self)} if self.step >= 0 else {}

    @staticmethod
    def from_facts(facts: Facts) -> Best:
        """Inverse of `facts`."""
        return Best(**facts.get("best", {}))


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows, tokenised; `families`: how many neighbours among those to train on are drawn together."""

    train: list[Pair]
    families: tuple[int, ...]
    validation: list[Pair]

    @staticmethod
    def of(families: list[list[Pair]], validation: list[Pair]) -> Rows:
        """From families of rows to train on."""
        return Rows(list(chain.from_iterable(families)), tuple(map(len, families)), validation)


def sft_loop(config: dict[str, Any]) -> None:
    """Ray Train's function. `config` holds the Job, refs of the tokenised rows and the mailbox.

    Training rows come in families, which are drawn together.
    """
    job: Job = config["job"]
    mailbox = config["mailbox"]
    with told_to(mailbox):
        stage = job.recipe.stage(job.stage)
        assert isinstance(stage, SftStage)
        rows = Rows.of(ray.get(config["train"][0]), ray.get(config["validation"][0]))
        device, collective = prepare_rank(job.recipe, stage)
        policy = load_policy(job.recipe, stage, job.start, device)
        compute, notes = choose_compute(job.recipe, stage, policy, device)
        shard(policy, collective, device, layers_of(policy))
        state = SftState(policy, make_optimizer(policy, stage.optimizer), compute, collective)
        found = restore(state, job)
        best = Best.from_facts(found[1] if found else {})
        here = standing(state.step, collective, notes)
        if collective.rank == 0:
            ray.get(mailbox.register.remote(here, None))
        while state.step < stage.num_steps:
            metrics = _step(state, stage, job, rows)
            best = best.after(state.step, metrics.get(VALIDATION))
            if stage.keep == "best" and best.step == state.step:
                export(job, policy, collective.rank, BEST)
            if collective.rank == 0:
                ray.get(mailbox.report.remote(state.step - 1, metrics))
            if stage.patience and best.misses >= stage.patience:
                break
            if not goes_on(state, job, stage, mailbox, lambda: ({}, best.facts())):  # noqa: B023 - called at once
                return
        if stage.keep == "last":
            export(job, policy, collective.rank)
        elif best.step < 0:
            raise ModelError(f"{stage.name}: no validation loss was a number; lower optimizer.lr, then run it again")
        elif collective.rank == 0:
            promote(Path(job.folder), BEST)
        collective.barrier()
        if collective.rank == 0:
            ray.get(mailbox.close.remote())


def _step(state: SftState, stage: SftStage, job: Job, rows: Rows) -> dict[str, float]:
    started = time.perf_counter()
    drawn = rows_of_step(
        state.step,
        num_rows=len(rows.train),
        per_step=stage.batch_rows,
        seed=job.recipe.seed,
        families=rows.families,
    )
    rank, num_ranks = state.collective.rank, state.collective.num_ranks
    mine = drawn[rank * len(drawn) // num_ranks : (rank + 1) * len(drawn) // num_ranks]  # neighbours stay on one rank
    metrics = sft_update(state, [rows.train[row] for row in mine], stage)
    metrics["time/step_s"] = time.perf_counter() - started
    last = state.step == stage.num_steps
    if rows.validation and (last or (stage.validate_every and state.step % stage.validate_every == 0)):
        metrics[VALIDATION] = validation_loss(state, rows.validation[rank::num_ranks])
    return metrics
