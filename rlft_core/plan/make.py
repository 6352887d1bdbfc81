"""`make_plan`: every check in the order in which a person would mend things, then the numbers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

from rlft_core.config.algorithms import ModelCriticConfig
from rlft_core.config.online import OnlineStage, PpoStage
from rlft_core.config.recipe import Recipe
from rlft_core.config.stages import EvaluateStage, SftStage, StageConfig, samples_first
from rlft_core.config.training import OptimizerConfig
from rlft_core.data import Splits
from rlft_core.data.prepare import rows_of
from rlft_core.errors import ConfigError
from rlft_core.plan.copies import copies_note
from rlft_core.plan.data import check_negatives, check_stage_rewards, check_template, check_tokens, rows_used
from rlft_core.plan.edits import check_edits, check_pairs
from rlft_core.plan.judges import check_judges
from rlft_core.plan.model import FoundModel, check_fits, find_model
from rlft_core.plan.stages import check_resources, plan_stage
from rlft_core.plan.types import Available, Plan, PromptLengths, StagePlan

GIB = 1024**3
_SINK_PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb", "otel": "opentelemetry"}


def make_plan(recipe: Recipe, *, base_dir: Path, available: Available, encode: bool = True) -> Plan:
    """Check a recipe against its data, its model and `available`, and say what the run will do and take.

    Args:
        base_dir: what relative data paths are relative to.
        encode: also measure all prompts in tokens, where the tokenizer is on this machine. This waits some seconds
            for transformers, and converts the bundled model if that was never done.

    Raises:
        ConfigError, DataError, ModelError, RewardError, ResourceError: naming key, row or file, and the way out.
    """
    for stage in recipe.stages:
        _check_settings(stage)
    _check_sinks(recipe)
    splits = rows_of(recipe.data, base_dir, recipe.seed)
    warnings = check_template(recipe, splits)
    check_stage_rewards(recipe, splits)
    check_negatives(recipe, splits)
    warnings += check_edits(recipe, splits, base_dir) + check_pairs(recipe, splits, base_dir)
    warnings += check_judges(recipe, None, base_dir)
    model = find_model(recipe, convert=encode)
    if model.size is not None:
        check_fits(recipe, model.size, num_gpus=available.num_gpus)
    stages = tuple(plan_stage(recipe, stage, splits, model.size, available) for stage in recipe.stages)
    notes = [model.note] if model.note else []
    notes += _resource_notes(recipe, stages, available)
    notes += _row_notes(recipe, splits)
    warnings += _schedule_warnings(recipe) + _room_warnings(recipe, stages, available)
    lengths = _lengths(recipe, splits, model, base_dir) if encode else {}
    sides = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return Plan(
        name=recipe.name,
        model=model.name,
        num_parameters=model.size.num_parameters if model.size else None,
        dtype=recipe.model.dtype,
        num_rows={side: len(rows) for side, rows in sides.items()},
        prompt_tokens=lengths,
        stages=stages,
        available=available,
        notes=tuple(notes),
        warnings=tuple(warnings),
    )


def _lengths(recipe: Recipe, splits: Splits, model: FoundModel, base_dir: Path) -> dict[str, PromptLengths]:
    if model.folder is None or model.size is None:
        return {}
    from rlft_core.models.loading import load_tokenizer  # transformers and torch: seconds

    tokenizer = load_tokenizer(model.folder, trust_remote_code=recipe.model.trust_remote_code)
    check_judges(recipe, tokenizer, base_dir)
    return check_tokens(recipe, splits, tokenizer, vocab_size=model.size.vocab_size)


def _check_settings(stage: StageConfig) -> None:
    """Values that are fine alone but not together."""
    key = f"stages.{stage.name}"
    if isinstance(stage, EvaluateStage):
        return
    _check_betas(f"{key}.optimizer", stage.optimizer)
    if not isinstance(stage, OnlineStage):
        return
    sampling = stage.sampling
    if sampling.min_tokens > sampling.max_tokens:
        raise ConfigError(
            f"{key}.sampling.min_tokens ({sampling.min_tokens}) is above max_tokens ({sampling.max_tokens}); lower the "
            "first or raise the second"
        )
    if not isinstance(stage, PpoStage):
        return
    if isinstance(stage.model_critic, ModelCriticConfig):
        _check_betas(f"{key}.advantage.critic.optimizer", stage.model_critic.optimizer)
    if stage.kl.adaptive is not None and stage.kl.coefficient == 0:
        raise ConfigError(
            f"{key}.kl.coefficient is 0 and kl.adaptive only multiplies it, so it would stay 0; start from .02, or "
            "leave kl.adaptive out"
        )


def _check_betas(key: str, optimizer: OptimizerConfig) -> None:
    wrong = [beta for beta in optimizer.betas if not 0 <= beta < 1]
    if wrong:
        raise ConfigError(f"{key}.betas: {wrong[0]} is no decay rate; give numbers from 0 up to 1, such as [.9, .99]")


def _check_sinks(recipe: Recipe) -> None:
    for sink in recipe.tracking.sinks:
        if importlib.util.find_spec(_SINK_PACKAGES[sink]) is None:
            raise ConfigError(
                f"tracking.sinks: {sink} is not installed; run: pip install 'rlft[{sink}]', or take {sink} out"
            )


def _resource_notes(recipe: Recipe, stages: Iterable[StagePlan], available: Available) -> list[str]:
    if recipe.cluster.address != "local":
        return [
            f"CPUs and GPUs are counted when the cluster at {recipe.cluster.address} is joined; the numbers here are "
            "this machine's"
        ]
    notes = []
    for plan, stage in zip(stages, recipe.stages, strict=True):
        notes += check_resources(recipe, plan, stage, available)
    return notes


def _row_notes(recipe: Recipe, splits: Splits) -> list[str]:
    notes = list(splits.notes)
    limit, num_train = recipe.data.limit, len(splits.train)
    if limit > num_train:
        notes.append(f"data.limit is {limit}, but there are only {num_train} training rows")
    for stage in recipe.stages:
        if samples_first(stage):
            notes.append(
                f"stages.{stage.name} first runs {stage.rollout.num_engines} engine(s) to sample the model, and ends them before "
                "its learner starts"
            )
        judging = copies_note(recipe, stage) if isinstance(stage, OnlineStage) else None
        if judging is not None:
            notes.append(judging)
        if isinstance(stage, EvaluateStage):
            num_rows = len(rows_used(stage, splits))
            if num_rows < 30:
                notes.append(f"stages.{stage.name} compares on {num_rows} rows: its intervals will be wide")
            continue
        per_step = stage.prompts_per_step if isinstance(stage, OnlineStage) else stage.batch_rows
        if per_step > num_train:
            notes.append(
                f"stages.{stage.name} takes {per_step} rows a step, but there are {num_train}: rows repeat in it"
            )
        if isinstance(stage, SftStage) and stage.validate_every and not splits.validation:
            notes.append(f"stages.{stage.name}.validate_every has no effect without data.validation")
    return notes


def _schedule_warnings(recipe: Recipe) -> list[str]:
    return [
        f"stages.{stage.name}.optimizer.warmup_steps ({stage.optimizer.warmup_steps}) is not below num_steps "
        f"({stage.num_steps}): the learning rate never reaches its peak"
        for stage in recipe.stages
        if not isinstance(stage, EvaluateStage) and stage.optimizer.warmup_steps >= stage.num_steps
    ]


def _room_warnings(recipe: Recipe, stages: tuple[StagePlan, ...], available: Available) -> list[str]:
    """Memory and disk are estimates, so too little is a warning and no error."""
    warnings = []
    for plan in stages if recipe.cluster.address == "local" else ():
        wanted = sum(a.count * a.memory_bytes for a in plan.actors if a.memory_bytes is not None and not a.num_gpus)
        if wanted > available.memory_bytes:
            warnings.append(
                f"stages.{plan.name} will take about {wanted / GIB:.1f} GiB of memory, "
                f"{available.memory_bytes / GIB:.1f} GiB are free; lower learner.max_batch_tokens or "
                "rollout.kv_cache_mb, freeze more layers, or use model.lora"
            )
    disk = sum(plan.disk_bytes or 0 for plan in stages)
    if disk > available.disk_free_bytes:
        warnings.append(
            f"checkpoints and models will take about {disk / GIB:.1f} GiB of disk, "
            f"{available.disk_free_bytes / GIB:.1f} GiB are free; free some room, lower checkpoint.keep, or choose "
            "another --runs-dir"
        )
    return warnings
