"""The body of a learner that prefers its best samples to its worst, run on every rank under Ray Train."""

from __future__ import annotations

from typing import Any

from rlft_core.config.online import OnlineDpoStage
from rlft_core.updates.online_dpo import online_dpo_update
from services.learner.dpo_worker import build_state
from services.learner.entry import Job
from services.learner.online_loop import serve_updates
from services.learner.rank import told_to
from services.learner.saving import restore


def online_dpo_body(config: dict[str, Any]) -> None:
    """Ray Train's function. `config` holds the Job, the probe's token ids and the mailbox."""
    job: Job = config["job"]
    with told_to(config["mailbox"]):
        stage = job.recipe.stage(job.stage)
        assert isinstance(stage, OnlineDpoStage)
        state, notes = build_state(job, stage)
        restore(state, job)
        serve_updates(
            config, stage, state, notes, lambda batch: online_dpo_update(state, batch, stage), lambda: ({}, {})
        )
