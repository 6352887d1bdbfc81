"""The judges of a stage: on engines of their own, on the rollout engines, or behind a service."""

from __future__ import annotations

import os
from pathlib import Path

import ray

from rlft_core.config.judge import POLICY, ApiJudgeConfig, JudgeConfig, JudgingConfig
from rlft_core.config.online import OnlineStage
from rlft_core.errors import ConfigError
from rlft_core.judging.template import load_template
from services.cluster.placement import actor_options, environment
from services.cluster.session import num_gpus_here
from services.pipeline.context import RunContext
from services.rollout.api_judge import ApiJudge, ApiJudgePool
from services.rollout.create import create_fleet
from services.rollout.fleet import Fleet
from services.rollout.judging import JudgePool, Judging
from services.scoring.scorers import Served

CACHE = "judge-cache.sqlite"
_CALLS_AT_ONCE = 1000
_RESTARTS = 3


def create_judges(context: RunContext, stage: OnlineStage, rollouts: Fleet) -> dict[str, Served]:
    """All judges of a stage by label; what they need is starting. Raises ConfigError."""
    found: dict[str, Served] = {}
    for reward in stage.rewards:
        if isinstance(reward, JudgeConfig):
            found[reward.label] = create_judge(context, stage, reward, rollouts)
        elif isinstance(reward, ApiJudgeConfig):
            found[reward.label] = create_api_judge(reward, context.folder, context.base_dir)
    return found


def create_judge(context: RunContext, stage: OnlineStage, judge: JudgeConfig, rollouts: Fleet) -> JudgePool:
    """A judge on engines of its own, which are starting, or on the policy's."""
    recipe = context.recipe
    shared = recipe.shares_engines(stage, judge)
    model = context.judge_model(stage, judge)
    judging = _judging(
        judge,
        model,
        context.base_dir,
        max_length=recipe.model.max_length,
        plain=shared and judge.model != POLICY,
        trust_remote_code=recipe.model.trust_remote_code,
    )
    if shared:
        return JudgePool(judging, rollouts, shared=True)
    fleet = create_fleet(
        recipe,
        judge.rollout,
        model,
        on_gpu=num_gpus_here() > 0,
        notice=context.notice,
        lora=False,
        name=judge.label,
        frozen=True,
    )
    return JudgePool(judging, fleet, shared=False)


def create_api_judge(judge: ApiJudgeConfig, folder: Path, base_dir: Path) -> ApiJudgePool:
    """A judge behind a service. Raises ConfigError when its key is not there."""
    judging = _judging(judge, judge.model, base_dir, max_length=judge.max_chars)
    cache = base_dir / judge.cache if judge.cache is not None else folder / CACHE
    # All its work is waiting for others. A call to an actor that died is made again by Ray; the cache has what was paid for.
    options = actor_options(
        num_cpus=0, env=environment(1, base_dir), max_concurrency=_CALLS_AT_ONCE, max_restarts=_RESTARTS
    )
    actor = ray.remote(ApiJudge).options(**options, max_task_retries=_RESTARTS)
    return ApiJudgePool(
        judge.label, actor.remote(judge, judging, key=key_of(judge), cache=cache.absolute()), judge.patience_s
    )


def key_of(judge: ApiJudgeConfig) -> str:
    """The key in the environment; empty when none is wanted. Raises ConfigError when it is not there."""
    key = os.environ.get(judge.key_env, "") if judge.key_env is not None else ""
    if judge.key_env is not None and not key:
        raise ConfigError(
            f"reward '{judge.label}': the environment has no {judge.key_env}, which key_env names; set it"
        )
    return key


def _judging(
    judge: JudgingConfig,
    model: str,
    base_dir: Path,
    *,
    max_length: int,
    plain: bool = False,
    trust_remote_code: bool = False,
) -> Judging:
    return Judging(
        judge.label,
        model,
        load_template(judge.template, base_dir=base_dir),
        judge.principles,
        judge.against,
        judge.all_pairs,
        judge.rounds,
        max_length,
        plain,
        trust_remote_code,
    )


def only_compares(stage: OnlineStage, base_dir: Path) -> bool:
    """Whether all that a stage rewards is how a sample stands among those of its prompt."""
    return all(
        isinstance(reward, JudgingConfig)
        and reward.against == "group"
        and not load_template(reward.template, base_dir=base_dir).grades
        for reward in stage.rewards
    )
