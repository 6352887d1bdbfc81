"""Actors that hold a reward model, and the pool in front of them.

Groups that arrive while an actor computes are taken together by its next pass, within the model's token budget. Scoring
is a pure function of its group, so a call to an actor that died is simply made again by Ray.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch

from rlft_core.config.rewards import RewardModelConfig
from rlft_core.rewards.given import GivenScores
from rlft_core.rewards.protocol import RewardValue, Sample, samples_of
from rlft_core.rewards.reward_model import RewardModelReward
from rlft_core.types import RolloutGroup
from services.cluster.placement import actor_options, environment, late, share_of_cores
from services.scoring.crew import Crew
from services.scoring.passes import Passes

_RESTARTS = 3
_CALLS_AT_ONCE = 1000  # groups that wait in an actor are taken together


class RewardModelActor:
    """One copy of a reward model. Placed with `ray.remote` by the pool's maker; many calls run at once."""

    def __init__(self, config: RewardModelConfig, *, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self._passes: Passes[Sample, RewardValue] = Passes(RewardModelReward.from_config(config))

    async def ready(self) -> bool:
        """Answers when the model is loaded."""
        return True

    async def score(self, group: RolloutGroup) -> GivenScores:
        """The reward of every completion of a group."""
        found = await self._passes(samples_of(group))
        return GivenScores(found.values, found.span)


class ModelPool:
    """The actors of one reward model."""

    role = "reward"

    def __init__(self, label: str, crew: Crew) -> None:
        self.label = label
        self.crew = crew

    async def start(self, seconds: float) -> None:
        """Wait until every actor has loaded its model."""
        await self.crew.start(seconds)

    async def stop(self) -> None:
        """End all actors."""
        self.crew.stop()

    async def score(self, group: ray.ObjectRef) -> tuple[ray.ObjectRef, Callable[[], None]]:
        """The ref of the group's GivenScores, and what to call when they have been read."""
        hand = self.crew.take()

        def done() -> None:
            hand.load -= 1

        return hand.actor.score.remote(group), done

    def actors(self) -> list[dict[str, Any]]:
        """As `rlft status` shows them."""
        return self.crew.actors(self.role)


def create_model_pool(
    model: RewardModelConfig, search_path: Path, notice: Callable[[str], None], *, local: bool = False
) -> ModelPool:
    """Start the actors of a reward model whose folder `model.model` names. `local`: the cluster is this machine alone."""
    threads = share_of_cores(model.num_actors)
    options = actor_options(
        num_cpus=model.cpus_per_actor,
        num_gpus=model.gpus_per_actor,
        env=environment(threads, search_path),
        max_concurrency=_CALLS_AT_ONCE,
        max_restarts=_RESTARTS,
    )
    actor = ray.remote(RewardModelActor)

    def hire(number: int) -> ray.actor.ActorHandle:
        chosen = options if number < model.num_actors else late(options, local=local)
        return actor.options(**chosen, max_task_retries=_RESTARTS).remote(model, num_threads=threads)

    crew = Crew(f"reward model '{model.label}'", model.num_actors, hire, notice=notice)
    return ModelPool(model.label, crew)
