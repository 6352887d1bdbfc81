"""What is sent to Ray Train: a job, and functions that load the models' libraries only where the ranks run.

Ray Train's controller is a process of its own that unpickles the function and its configuration: for it alone, importing
torch and transformers would cost as much as it costs a rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rlft_core.config.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Job:
    """What a stage's learner works on: `start` is the model folder, `folder` the stage's own; `critic` the folder of a
    reward model that the critic starts as, if the recipe names one. Where to resume is found in `folder`."""

    recipe: Recipe
    stage: str
    start: str
    folder: str
    fingerprint: str
    critic: str | None = None


def online(config: dict[str, Any]) -> None:
    """A rank of a stage that samples while it learns. `config` holds the Job, the probe's token ids and the mailbox."""
    from rlft_core.config.online import PpoStage

    job: Job = config["job"]
    if isinstance(job.recipe.stage(job.stage), PpoStage):
        from services.learner.ppo_worker import ppo_body

        ppo_body(config)
    else:
        from services.learner.online_dpo_worker import online_dpo_body

        online_dpo_body(config)


def sft(config: dict[str, Any]) -> None:
    """A rank of a supervised stage. `config` holds the Job, refs of the tokenised rows and the mailbox."""
    from services.learner.sft_worker import sft_loop

    sft_loop(config)


def dpo(config: dict[str, Any]) -> None:
    """A rank of a stage of direct preference optimisation. `config` is that of `reward`."""
    from services.learner.dpo_worker import dpo_loop

    dpo_loop(config)


def reward(config: dict[str, Any]) -> None:
    """A rank of a reward-model stage. `config` holds the Job, refs of the tokenised contrasts and the mailbox."""
    from services.learner.reward_worker import reward_loop

    reward_loop(config)
