"""The PPO stage: put the parts together and hand them to the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from rlft_core.batching.schedule import sampling_seed
from rlft_core.config.online import OnlineStage
from rlft_core.config.rewards import RewardConfig, RewardModelConfig, ServedConfig
from rlft_core.data import encode_target
from rlft_core.errors import ConfigError
from rlft_core.models.loading import load_tokenizer
from rlft_core.models.reward_model import RewardFacts
from rlft_core.types import Prompt
from services.cluster.placement import actor_options, environment, late, share_of_cores
from services.cluster.session import num_gpus_here
from services.learner import entry
from services.learner.learner import Learner
from services.learner.saving import promote
from services.observe.observer import StageObserver
from services.pipeline.context import RunContext, learner_placement
from services.pipeline.encoding import encode_prompts
from services.pipeline.judges import create_judges, only_compares
from services.rollout.create import create_fleet
from services.rollout.engine import Sampling
from services.scoring.crew import Crew
from services.scoring.reward_models import create_model_pool
from services.scoring.scorers import ScorerPool, ScoringActor, Served
from services.training.autoscale import Autoscale
from services.training.loop import run_loop
from services.training.services import LoopServices, PromptSource
from services.training.watch import Watch

_RESTARTS_OF_SCORERS = 3


async def run_online_stage(context: RunContext, stage: OnlineStage) -> None:
    """Run or resume a PPO stage; its model is in stages/<name>/model afterwards."""
    with context.observer.stage(stage.name, num_steps=stage.num_steps, sample_every=stage.log_samples_every) as observe:
        services = create_services(context, stage, observe)
        try:
            with context.desk.stage(stage.name, services.hooks()):
                await run_loop(stage, services)
        finally:
            await services.stop()
    best = services.watch.best_model()
    if best is not None:
        promote(context.stage_folder(stage.name), best.name)
        context.notice(
            f"{stage.name}: its model is that of step {services.watch.best_step}, the best on validation rows"
        )
    services.watch.tidy()


def create_services(context: RunContext, stage: OnlineStage, observe: StageObserver) -> LoopServices:
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
    rewards = context.with_models(stage, stage.rewards)
    check_tokenizers(tokenizer, rewards, where=f"stages.{stage.name}.rewards")
    on_gpu = num_gpus_here() > 0
    frozen = stage.samples_start
    fleet = create_fleet(
        recipe,
        stage.rollout,
        start,
        on_gpu=on_gpu,
        notice=context.notice,
        lora=recipe.model.lora is not None and not frozen,
        frozen=frozen,
    )
    scorers = create_scorers(
        stage,
        rewards,
        context.base_dir,
        create_judges(context, stage, fleet),
        policy=start,
        trust_remote_code=recipe.model.trust_remote_code,
        notice=context.notice,
        local=recipe.cluster.address == "local",
    )
    learner = create_learner(context, stage, start, (prompts.ids[0], encode_target(tokenizer, prompts.rows[0].output)))
    per_step, num_samples = stage.prompts_per_step, stage.samples_per_prompt
    source = PromptSource(
        prompts.rows, prompts.ids, per_step=per_step, num_samples=num_samples, run=stage.name, seed=recipe.seed
    )
    sampling = Sampling(stage.sampling.temperature, stage.sampling.max_tokens, stage.sampling.min_tokens)
    watch = Watch(
        stage.watch,
        _watched_prompts(context, stage, tokenizer),
        stage.sampling.max_tokens,
        stage.num_steps,
        context.stage_folder(stage.name),
        fleet,
        scorers,
        learner,
        context.notice,
        relative=only_compares(stage, context.base_dir),
    )
    autoscale = Autoscale(stage.rollout.autoscale, fleet, context.notice)
    return LoopServices(
        fleet, scorers, learner, watch, source, observe, sampling, context.notice, context.desk, autoscale
    )


def _watched_prompts(context: RunContext, stage: OnlineStage, tokenizer: Any) -> list[Prompt]:
    """The validation rows that the watch looks at."""
    if stage.watch is None:
        return []
    fitting = encode_prompts(
        context.recipe,
        context.splits.validation[: stage.watch.rows],
        tokenizer,
        max_new_tokens=stage.sampling.max_tokens,
        source="data.validation",
        notice=context.notice,
    )
    return [
        Prompt(row, tuple(ids), 1, sampling_seed(stage.name, "watch", k))
        for k, (row, ids) in enumerate(zip(fitting.rows, fitting.ids, strict=True))
    ]


def check_tokenizers(tokenizer: Any, rewards: Sequence[RewardConfig], *, where: str) -> None:
    """A reward model of tokens scores the policy's own. Raises ConfigError when its tokenizer is another one."""
    for reward in rewards:
        if not isinstance(reward, RewardModelConfig) or reward.model is None:
            continue
        if (
            RewardFacts.read(reward.model).level == "token"
            and load_tokenizer(reward.model).get_vocab() != tokenizer.get_vocab()
        ):
            raise ConfigError(
                f"{where}: reward '{reward.label}' rewards single tokens, but {reward.model} has another tokenizer than the "
                "policy; train it from the same model, or take one with level: sequence"
            )


def create_scorers(
    stage: OnlineStage,
    rewards: tuple[RewardConfig, ...],
    search_path: Path,
    judges: Mapping[str, Served] | None = None,
    *,
    policy: str | None = None,
    trust_remote_code: bool = False,
    notice: Callable[[str], None],
    local: bool = False,
) -> ScorerPool:
    """Start the reward actors of a stage, and those of its reward models, whose folders `rewards` name.

    `judges` by label; `policy`: the folder with the policy's tokenizer, for rewards of single tokens; `local`: the cluster is
    this machine alone.
    """
    served: list[Served] = [
        create_model_pool(reward, search_path, notice, local=local)
        if isinstance(reward, RewardModelConfig)
        else (judges or {})[reward.label]
        for reward in rewards
        if isinstance(reward, ServedConfig)
    ]
    may_skip = stage.max_skipped_samples > 0
    threads = share_of_cores(stage.num_scorers)
    options = actor_options(num_cpus=1, env=environment(threads, search_path), max_restarts=_RESTARTS_OF_SCORERS)
    actor = ray.remote(ScoringActor)

    def hire(number: int) -> ray.actor.ActorHandle:
        chosen = options if number < stage.num_scorers else late(options, local=local)
        return actor.options(**chosen, max_task_retries=_RESTARTS_OF_SCORERS).remote(
            rewards,
            may_skip=may_skip,
            search_path=str(search_path),
            num_threads=threads,
            policy=policy,
            trust_remote_code=trust_remote_code,
        )

    return ScorerPool(
        Crew("scorer", stage.num_scorers, hire, notice=notice),
        served,
        max_skipped=stage.max_skipped_samples,
        start_s=stage.rollout.start_deadline_s,
        # Scores wait for a service that is down as long as its judge does.
        deadline_s=stage.rollout.request_deadline_s
        + max((judge.patience_s for judge in stage.api_judges), default=0.0),
    )


def create_learner(context: RunContext, stage: OnlineStage, start: str, probe: tuple[Any, Any]) -> Learner:
    """The stage's learner, not started yet."""
    folder = context.stage_folder(stage.name)
    critic = stage.model_critic.start_from if stage.model_critic is not None else None
    job = entry.Job(
        context.recipe,
        stage.name,
        start,
        str(folder),
        context.fingerprints[stage.name],
        critic=context.model_of(critic) if critic is not None else None,
    )
    return Learner(
        entry.online,
        {"job": job, "probe": probe},
        name=stage.name,
        config=stage.learner,
        placement=learner_placement(stage, context.base_dir),
        storage=folder / "ray",
        notice=context.notice,
    )
