"""The PPO stage: put the parts together and hand them to the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from rlft_core.config.stages import PpoStage
from rlft_core.data import encode_target
from rlft_core.models.loading import load_tokenizer
from services.cluster.placement import actor_options, environment, share_of_cores
from services.cluster.session import num_gpus_here
from services.learner import entry
from services.learner.learner import Learner
from services.observe.observer import StageObserver
from services.pipeline.context import RunContext, learner_placement
from services.pipeline.encoding import encode_prompts
from services.rollout.create import create_fleet
from services.rollout.engine import Sampling
from services.scoring.scorers import ScorerPool, ScoringActor
from services.training.ppo_loop import run_ppo
from services.training.services import PpoServices, PromptSource

_RESTARTS_OF_SCORERS = 3


async def run_ppo_stage(context: RunContext, stage: PpoStage) -> None:
    """Run or resume a PPO stage; its model is in stages/<name>/model afterwards."""
    with context.observer.stage(stage.name, num_steps=stage.num_steps, sample_every=stage.log_samples_every) as observe:
        services = create_services(context, stage, observe)
        try:
            await run_ppo(stage, services)
        finally:
            await services.stop()


def create_services(context: RunContext, stage: PpoStage, observe: StageObserver) -> PpoServices:
    """The parts of a PPO stage, put together; engines and scorers are starting, the learner is not."""
    recipe = context.recipe
    start = context.model_of(recipe.start_of(stage))
    tokenizer = load_tokenizer(start, trust_remote_code=recipe.model.trust_remote_code)
    prompts = encode_prompts(
        recipe,
        context.splits.train,
        tokenizer,
        max_new_tokens=stage.sampling.max_tokens,
        source="data.train",
        notice=context.notice,
    )
    on_gpu = num_gpus_here() > 0
    fleet = create_fleet(
        recipe, stage.rollout, start, on_gpu=on_gpu, notice=context.notice, lora=recipe.model.lora is not None
    )
    scorers = create_scorers(stage, context.base_dir)
    learner = create_learner(context, stage, start, (prompts.ids[0], encode_target(tokenizer, prompts.rows[0].output)))
    source = PromptSource(
        prompts.rows,
        prompts.ids,
        per_step=stage.prompts_per_step,
        num_samples=stage.samples_per_prompt,
        run=stage.name,
        seed=recipe.seed,
    )
    sampling = Sampling(stage.sampling.temperature, stage.sampling.max_tokens, stage.sampling.min_tokens)
    return PpoServices(fleet, scorers, learner, source, observe, sampling, context.notice)


def create_scorers(stage: PpoStage, search_path: Path) -> ScorerPool:
    """Start the reward actors of a stage."""
    threads = share_of_cores(stage.num_scorers)
    options = actor_options(num_cpus=1, env=environment(threads, search_path), max_restarts=_RESTARTS_OF_SCORERS)
    actor = ray.remote(ScoringActor).options(**options, max_task_retries=_RESTARTS_OF_SCORERS)
    may_skip = stage.max_skipped_samples > 0
    actors = [
        actor.remote(stage.rewards, may_skip=may_skip, search_path=str(search_path), num_threads=threads)
        for _ in range(stage.num_scorers)
    ]
    return ScorerPool(
        actors,
        max_skipped=stage.max_skipped_samples,
        start_s=stage.rollout.start_deadline_s,
        deadline_s=stage.rollout.request_deadline_s,
    )


def create_learner(context: RunContext, stage: PpoStage, start: str, probe: tuple[Any, Any]) -> Learner:
    """The stage's learner, not started yet."""
    folder = context.stage_folder(stage.name)
    job = entry.Job(context.recipe, stage.name, start, str(folder), context.fingerprints[stage.name])
    return Learner(
        entry.ppo,
        {"job": job, "probe": probe},
        name=stage.name,
        config=stage.learner,
        placement=learner_placement(stage, context.base_dir),
        storage=folder / "ray",
        notice=context.notice,
    )
