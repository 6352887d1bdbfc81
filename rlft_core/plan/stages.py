"""The processes of each stage, what they take, and whether this machine has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rlft_core.config.algorithms import GaeConfig, HeadCriticConfig
from rlft_core.config.judge import JudgeConfig
from rlft_core.config.online import OnlineDpoStage, OnlineStage, PpoStage
from rlft_core.config.pairs import SampledPairsConfig
from rlft_core.config.recipe import Recipe, TrainingStage
from rlft_core.config.rewards import EmbeddingSimilarityConfig, RewardModelConfig
from rlft_core.config.rollout import RolloutConfig
from rlft_core.config.stages import BASE, DpoStage, EvaluateStage, RewardModelStage, StageConfig
from rlft_core.data import Splits
from rlft_core.errors import ModelError, ResourceError
from rlft_core.models.default_model import DEFAULT_MODEL, embedding_model_dir, resolve_model
from rlft_core.models.memory import checkpoint_bytes, engine_bytes, learner_bytes, scorer_bytes
from rlft_core.models.size import ModelSize, model_size
from rlft_core.plan.data import rows_used
from rlft_core.plan.model import VALUE_BYTES
from rlft_core.plan.types import Actor, Available, StagePlan

MIB = 1024**2


def plan_stage(
    recipe: Recipe, stage: StageConfig, splits: Splits, size: ModelSize | None, available: Available
) -> StagePlan:
    """Count what a stage does and runs. `size` is None when the model is not known yet: then memory is not either."""
    rows = rows_used(stage, splits)
    actors: list[Actor] = []
    if not isinstance(stage, EvaluateStage):
        actors.append(_learner(recipe, stage, size, available))
    if isinstance(stage, OnlineStage | EvaluateStage):
        actors.append(_engine(recipe, stage.rollout, size, available))
    if isinstance(stage, OnlineStage):
        actors.append(Actor("scorer", stage.num_scorers, 1, 0, _scorer_bytes(stage)))
        actors += [_reward_model(reward, size) for reward in stage.reward_models]
        actors += [_judge(recipe, stage, judge, size, available) for judge in own_judges(recipe, stage)]
    if isinstance(stage, EvaluateStage):
        steps, samples, updates = len(stage.systems), len(stage.systems) * len(rows), 0
        sources = tuple(stage.systems.values())
    else:
        steps, sources = stage.num_steps, (recipe.start_of(stage),)
        samples = steps * _samples_per_step(stage)
        updates = steps * (stage.updates_per_step if isinstance(stage, OnlineStage) else 1)
    return StagePlan(
        name=stage.name,
        type=stage.type,
        starts_from=sources,
        num_steps=steps,
        num_rows=len(rows),
        num_samples=samples,
        num_updates=updates,
        actors=tuple(actors),
        disk_bytes=_disk_bytes(recipe, stage, size),
    )


def _samples_per_step(stage: TrainingStage) -> int:
    if isinstance(stage, OnlineStage):
        return stage.samples_per_step
    if isinstance(stage, DpoStage):
        per_row = stage.pairs.per_row if isinstance(stage.pairs, SampledPairsConfig) else 1
        return stage.batch_rows * (1 + per_row)
    return stage.batch_rows * (1 + stage.made_per_row if isinstance(stage, RewardModelStage) else 1)


def _reward_model(reward: RewardModelConfig, size: ModelSize | None) -> Actor:
    """An actor of a reward model. One that the recipe trains is about as large as the policy."""
    if reward.model is not None:
        size = model_size(Path(reward.model)) if Path(reward.model, "config.json").is_file() else None
    memory = None if size is None else scorer_bytes(size.num_parameters)
    return Actor(reward.label, reward.num_actors, reward.cpus_per_actor, reward.gpus_per_actor, memory)


def own_judges(recipe: Recipe, stage: OnlineStage) -> list[JudgeConfig]:
    """The judges of a stage that need engines of their own."""
    return [judge for judge in stage.judges if not recipe.shares_engines(stage, judge)]


def _judge(
    recipe: Recipe, stage: OnlineStage, judge: JudgeConfig, size: ModelSize | None, available: Available
) -> Actor:
    """The engines of a judge. One that the recipe trains is as large as the policy."""
    if recipe.judge_source(stage, judge) is None:
        size = model_size(Path(judge.model)) if Path(judge.model, "config.json").is_file() else None
    return replace(_engine(recipe, judge.rollout, size, available), role=judge.label)


def check_resources(recipe: Recipe, plan: StagePlan, stage: StageConfig, available: Available) -> list[str]:
    """Compare a stage with this machine. Returns notes; a local cluster counts CPUs logically, so few are no error.

    Raises:
        ResourceError: more GPUs than there are, or more CPUs than `cluster.num_cpus` allows.
    """
    if plan.num_gpus > available.num_gpus:
        raise ResourceError(
            f"stages.{plan.name} asks for {plan.num_gpus:g} GPUs at once ({_gpu_sum(stage, plan)}), but this machine has "
            f"{available.num_gpus}. Lower those numbers, set stages.{plan.name}.learner.device to cpu, or join a "
            "cluster that has them (cluster.address)"
        )
    allowed = recipe.cluster.num_cpus
    if allowed is not None and plan.num_cpus > allowed:
        raise ResourceError(
            f"stages.{plan.name} asks for {plan.num_cpus:g} CPUs at once, but cluster.num_cpus is {allowed}; raise it "
            f"to {plan.num_cpus:g} or leave it out (a local cluster may have more CPUs than the machine has cores)"
        )
    if plan.num_cpus <= available.num_cpus:
        return []
    notes = [
        f"stages.{plan.name} reserves {plan.num_cpus:g} CPUs on {available.num_cpus:g} cores: its processes take turns"
    ]
    if isinstance(stage, OnlineStage) and stage.max_lag > 0:
        # Measured on two cores: a step took half as long again, see benchmarks/results.
        notes.append(
            f"stages.{plan.name}.max_lag is {stage.max_lag}: engines and learner will compete for the same cores, which "
            "is slower than taking turns; use 0 here"
        )
    return notes


def _gpu_sum(stage: StageConfig, plan: StagePlan) -> str:
    parts = []
    if not isinstance(stage, EvaluateStage) and any(a.role == "learner rank" and a.num_gpus for a in plan.actors):
        parts.append(f"learner.num_ranks {stage.learner.num_ranks}")
    if isinstance(stage, OnlineStage | EvaluateStage):
        rollout = stage.rollout
        parts.append(f"rollout.num_engines {rollout.num_engines} x rollout.tensor_parallel {rollout.tensor_parallel}")
    if isinstance(stage, OnlineStage):
        models = [r for r in stage.reward_models if r.gpus_per_actor]
        parts += [
            f"{j.label}: rollout.num_engines {j.rollout.num_engines} x tensor_parallel {j.rollout.tensor_parallel}"
            for j in stage.judges
        ]
        parts += [f"{r.label}: num_actors {r.num_actors} x gpus_per_actor {r.gpus_per_actor:g}" for r in models]
    return " + ".join(parts)


def learner_uses_gpu(stage: TrainingStage, num_gpus: int) -> bool:
    """Whether a learner takes GPUs when there are `num_gpus`. A stage that then asks for too many is refused."""
    device = stage.learner.device
    return device == "cuda" or (device == "auto" and num_gpus >= stage.learner.num_ranks)


def _learner(recipe: Recipe, stage: TrainingStage, size: ModelSize | None, available: Available) -> Actor:
    learner = stage.learner
    on_gpu = learner_uses_gpu(stage, available.num_gpus)
    memory = None
    if size is not None:
        memory = learner_bytes(
            size,
            num_trainable=_num_trainable(recipe, stage, size),
            num_ranks=learner.num_ranks,
            compute_bytes=VALUE_BYTES[recipe.model.dtype],
            num_positions=max(learner.max_row_tokens, learner.max_batch_tokens),
            checkpointing=learner.gradient_checkpointing,
            has_reference=has_reference(recipe, stage),
            has_critic=isinstance(stage, OnlineStage) and stage.model_critic is not None,
        )
    return Actor("learner rank", learner.num_ranks, learner.cpus_per_rank, int(on_gpu), memory)


def _engine(recipe: Recipe, rollout: RolloutConfig, size: ModelSize | None, available: Available) -> Actor:
    on_gpu = available.num_gpus > 0 or rollout.tensor_parallel > 1
    memory = None
    if size is not None and rollout.engine == "vllm":
        cache_bytes = 0 if on_gpu else rollout.kv_cache_mb * MIB
        memory = engine_bytes(
            size.num_parameters * VALUE_BYTES[recipe.model.dtype] // rollout.tensor_parallel, kv_cache_bytes=cache_bytes
        )
    if rollout.engine == "fake":
        memory = scorer_bytes(0)
    gpus = rollout.tensor_parallel if on_gpu else 0
    return Actor("engine", rollout.num_engines, rollout.cpus_per_engine, gpus, memory)


def _scorer_bytes(stage: OnlineStage) -> int | None:
    """Memory of one reward actor; None when an embedding model is not on this machine."""
    names = {reward.model for reward in stage.rewards if isinstance(reward, EmbeddingSimilarityConfig)}
    parameters = 0
    for name in names:
        folder = embedding_model_dir() if name == DEFAULT_MODEL else resolve_model(name)
        if isinstance(folder, str):
            return None
        try:
            parameters += model_size(folder).num_parameters
        except ModelError:
            return None  # an encoder whose configuration says less than a decoder's: no estimate, no error
    return scorer_bytes(parameters)


def _num_trainable(recipe: Recipe, stage: TrainingStage, size: ModelSize) -> int:
    freeze = stage.learner.freeze
    return size.trainable(
        freeze_embeddings=freeze.embeddings,
        bottom_layers=freeze.bottom_layers,
        lora_rank=recipe.model.lora.rank if recipe.model.lora and not isinstance(stage, RewardModelStage) else 0,
    )


def has_reference(recipe: Recipe, stage: TrainingStage) -> bool:
    """Whether a second, frozen copy is held. Adapters need none: the reference is the network without them."""
    if not isinstance(stage, OnlineStage | DpoStage) or recipe.model.lora is not None:
        return False
    if isinstance(stage, DpoStage | OnlineDpoStage):
        return True
    assert isinstance(stage, PpoStage)
    head = isinstance(stage.advantage, GaeConfig) and isinstance(stage.advantage.critic, HeadCriticConfig)
    return stage.kl.coefficient > 0 or head


def _disk_bytes(recipe: Recipe, stage: StageConfig, size: ModelSize | None) -> int | None:
    """Checkpoints that are kept, one more while it is written, and the finished model."""
    if isinstance(stage, EvaluateStage):
        return 0
    if size is None:
        return None
    critic = isinstance(stage, OnlineStage) and stage.model_critic is not None
    one = checkpoint_bytes(size, num_trainable=_num_trainable(recipe, stage, size), has_critic=critic)
    num_kept = min(stage.checkpoint.keep, -(-stage.num_steps // stage.checkpoint.every))
    return (num_kept + 1) * one + VALUE_BYTES[recipe.model.dtype] * size.num_parameters


def sources_text(plan: StagePlan) -> str:
    """Where a stage starts, for people."""
    return ", ".join("the base model" if name == BASE else name for name in dict.fromkeys(plan.starts_from))
