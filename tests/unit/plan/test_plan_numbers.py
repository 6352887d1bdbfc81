"""What a good recipe's plan says: steps, samples, actors, and what is worth knowing."""

from __future__ import annotations

from pathlib import Path

from rlft_core.plan import Available
from tests.unit.plan.parts import GIB, HIDDEN, LAPTOP, LAYER_PARAMETERS, LAYERS, MIB, SERVER, VOCAB, plan_of


def test_steps_rows_samples_and_updates_are_counted(base: Path) -> None:
    plan = plan_of(base, "stages.ppo.epochs=2", "stages.ppo.minibatches=4", "stages.ppo.prompts_per_step=12")
    sft, ppo, evaluate = plan.stages
    assert (sft.num_steps, sft.num_rows, sft.num_samples, sft.num_updates) == (20, 60, 160, 20)
    assert (ppo.num_steps, ppo.num_rows, ppo.num_samples, ppo.num_updates) == (30, 60, 30 * 12 * 8, 30 * 2 * 4)
    assert (evaluate.num_steps, evaluate.num_rows, evaluate.num_samples, evaluate.num_updates) == (2, 40, 80, 0)
    assert [stage.starts_from for stage in plan.stages] == [("base",), ("sft",), ("base", "ppo")]
    assert dict(plan.num_rows) == {"train": 60, "validation": 0, "test": 40}
    assert plan.num_parameters == VOCAB * HIDDEN + HIDDEN + LAYERS * LAYER_PARAMETERS
    assert plan.prompt_tokens == {}
    assert plan.warnings == ()


def test_actors_and_cpus_of_each_stage(base: Path) -> None:
    plan = plan_of(
        base, "stages.ppo.rollout.num_engines=2", "stages.ppo.num_scorers=3", "stages.ppo.learner.cpus_per_rank=2"
    )
    ppo = plan.stages[1]
    assert [(a.role, a.count, a.num_cpus, a.num_gpus) for a in ppo.actors] == [
        ("learner rank", 1, 2, 0),
        ("engine", 2, 1.0, 0),
        ("scorer", 3, 1, 0),
    ]
    assert (ppo.num_cpus, ppo.num_gpus) == (7, 0)
    assert "stages.ppo reserves 7 CPUs on 2 cores: its processes take turns" in plan.notes


def test_gpus_are_taken_where_there_are_enough(base: Path) -> None:
    plan = plan_of(base, "stages.ppo.learner.num_ranks=4", "stages.ppo.rollout.num_engines=4", available=SERVER)
    assert [stage.num_gpus for stage in plan.stages] == [1, 8, 1]
    assert [actor.num_gpus for actor in plan.stages[1].actors] == [1, 1, 0]
    on_cpu = plan_of(base, "stages.ppo.learner.device=cpu", available=SERVER)
    assert on_cpu.stages[1].num_gpus == 1


def test_resources_of_a_cluster_that_is_joined_are_left_to_the_joining(base: Path) -> None:
    plan = plan_of(base, "cluster.address=auto", "stages.sft.learner.device=cuda")
    assert any("the cluster at auto is joined" in note for note in plan.notes)


def test_things_worth_knowing_are_told(base: Path) -> None:
    plan = plan_of(
        base, "stages.sft.batch_rows=80", "stages.evaluate.max_rows=5", "data.limit=100", "stages.sft.validate_every=5"
    )
    text = "\n".join(plan.notes)
    assert "stages.sft takes 80 rows a step, but there are 60" in text
    assert "stages.evaluate compares on 5 rows" in text
    assert "data.limit is 100, but there are only 60 training rows" in text
    assert "stages.sft.validate_every has no effect without data.validation" in text


def test_lag_without_cores_of_its_own_is_told(base: Path) -> None:
    crowded, roomy = (plan_of(base, "stages.ppo.max_lag=1", available=machine) for machine in (LAPTOP, SERVER))
    assert any("stages.ppo.max_lag is 1: engines and learner will compete" in note for note in crowded.notes)
    assert not any("max_lag" in note for note in roomy.notes)


def test_little_memory_disk_and_schedule_are_warnings(base: Path) -> None:
    small = Available(num_cpus=2, num_gpus=0, memory_bytes=GIB, disk_free_bytes=MIB)
    plan = plan_of(base, "stages.ppo.optimizer.warmup_steps=30", "data.prompt.template=same", available=small)
    text = "\n".join(plan.warnings)
    assert "stages.ppo will take about" in text
    assert "1.0 GiB are free; lower learner.max_batch_tokens or rollout.kv_cache_mb" in text
    assert "0.0 GiB are free; free some room, lower checkpoint.keep" in text
    assert "stages.ppo.optimizer.warmup_steps (30) is not below num_steps (30)" in text
    assert "data.prompt.template has no placeholder" in text
