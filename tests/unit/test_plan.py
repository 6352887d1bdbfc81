"""The plan: what is refused before a process starts, and the numbers of what is not. No tokenizer, no torch."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlft_core.config.load import parse_recipe
from rlft_core.config.recipe import Recipe
from rlft_core.data.prepare import rows_of
from rlft_core.errors import ConfigError, DataError, ModelError, ResourceError, UserError
from rlft_core.models.memory import activation_bytes, checkpoint_bytes, engine_bytes, learner_bytes, scorer_bytes
from rlft_core.models.size import ModelSize, model_size, read_header
from rlft_core.plan import Available, Plan, make_plan

GIB = 1024**3
MIB = 1024**2
LAPTOP = Available(num_cpus=2, num_gpus=0, memory_bytes=16 * GIB, disk_free_bytes=100 * GIB)
SERVER = Available(num_cpus=64, num_gpus=8, memory_bytes=512 * GIB, disk_free_bytes=1000 * GIB)
HIDDEN, LAYERS, VOCAB, HEADS, KV_HEADS, CONTEXT = 64, 3, 100, 4, 2, 1024
LAYER_SHAPES = {"self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "mlp.up_proj": (128, 64)}
LAYER_PARAMETERS = 64 * 64 + 32 * 64 + 128 * 64 + 64


def write_model(folder: Path, **changes: Any) -> Path:
    """A model folder with a real safetensors header and zeros for weights."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        shapes[f"model.layers.{layer}.input_layernorm.weight"] = (HIDDEN,)
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in LAYER_SHAPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    config = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "vocab_size": VOCAB, "num_attention_heads": HEADS}
    config |= {"num_key_value_heads": KV_HEADS, "max_position_embeddings": CONTEXT, **changes}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def write_rows(path: Path, count: int, *, first: int = 0, **changes: Any) -> None:
    rows = [
        {"id": f"r{i}", "family": f"f{i}", "input": f"text {i}", "output": f"answer {i}", "package": f"p{i}", **changes}
        for i in range(first, first + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_rows(tmp_path / "train.jsonl", 60)
    write_rows(tmp_path / "test.jsonl", 40, first=100)
    write_model(tmp_path / "model")
    return tmp_path


def recipe_in(base: Path, *overrides: str, **changes: Any) -> Recipe:
    content: dict[str, Any] = {
        "model": {"name": str(base / "model")},
        "data": {"train": "train.jsonl", "test": "test.jsonl"},
        "stages": [
            {"type": "sft", "num_steps": 20},
            {"type": "ppo", "num_steps": 30, "rewards": [{"type": "ends_properly"}]},
            {"type": "evaluate", "systems": {"base": "base", "rl": "ppo"}},
        ],
        **changes,
    }
    return parse_recipe(content, overrides)


def plan_of(base: Path, *overrides: str, available: Available = LAPTOP) -> Plan:
    return make_plan(recipe_in(base, *overrides), base_dir=base, available=available, encode=False)


def refusal(base: Path, *overrides: str, error: type[UserError], available: Available = LAPTOP) -> str:
    with pytest.raises(error) as caught:
        plan_of(base, *overrides, available=available)
    assert type(caught.value) is error
    return str(caught.value)


# What a good recipe's plan says


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


def test_little_memory_disk_and_schedule_are_warnings(base: Path) -> None:
    small = Available(num_cpus=2, num_gpus=0, memory_bytes=GIB, disk_free_bytes=MIB)
    plan = plan_of(base, "stages.ppo.optimizer.warmup_steps=30", "data.prompt.template=same", available=small)
    text = "\n".join(plan.warnings)
    assert "stages.ppo will take about" in text
    assert "1.0 GiB are free; lower learner.max_batch_tokens or rollout.kv_cache_mb" in text
    assert "0.0 GiB are free; free some room, lower checkpoint.keep" in text
    assert "stages.ppo.optimizer.warmup_steps (30) is not below num_steps (30)" in text
    assert "data.prompt.template has no placeholder" in text


# What is refused


def test_a_data_file_that_is_not_there(base: Path) -> None:
    message = refusal(base, "data.train=tran.jsonl", error=DataError)
    assert message.startswith("data.train: ")
    assert "tran.jsonl does not exist" in message
    assert "train.jsonl" in message


def test_a_row_without_its_field(base: Path) -> None:
    message = refusal(base, "data.output_field=synopsis", error=DataError)
    assert "data.train: " in message
    assert "line 1" in message
    assert "synopsis" in message
    assert "'output'" in message


def test_a_row_of_the_wrong_type(base: Path) -> None:
    with (base / "test.jsonl").open("a") as handle:
        handle.write(json.dumps({"id": "x", "input": 3, "output": "b"}) + "\n")
    message = refusal(base, error=DataError)
    assert "data.test: " in message
    assert "line 41" in message
    assert '"3"' in message


def test_an_empty_file(base: Path) -> None:
    (base / "test.jsonl").write_text("")
    assert "test.jsonl is empty" in refusal(base, error=DataError)


def test_a_row_on_two_sides(base: Path) -> None:
    write_rows(base / "test.jsonl", 2, first=58)
    message = refusal(base, error=DataError)
    assert "2 rows of test have the same input as a row of train" in message


@pytest.mark.parametrize(
    "override, named",
    [
        ("data.test=60", "leave none to train on"),
        ("data.test=1.5", "data.test: 1.5 is no share of the rows"),
        ("data.test=-3", "data.test: -3 sets no row aside"),
        ("data.validation=0", "data.validation: 0 sets no row aside"),
        ("data.test='0.1'", "data.test: "),
    ],
)
def test_sizes_that_cannot_be_set_aside(base: Path, override: str, named: str) -> None:
    assert named in refusal(base, override, error=DataError)


def test_a_placeholder_that_no_row_has(base: Path) -> None:
    message = refusal(base, "data.prompt.template='{inptu}'", error=DataError)
    assert message.startswith("data.prompt.template: ")
    assert "{inptu}" in message
    assert "Did you mean {input}?" in message


def test_a_stray_brace_in_the_template(base: Path) -> None:
    assert "data.prompt.template: " in refusal(base, "data.prompt.template='a { b'", error=ConfigError)


@pytest.mark.parametrize(
    "rewards, named",
    [
        ("[{type: custom, function: 'no_such_module:f'}]", ("stages.ppo.rewards: ", "no_such_module")),
        ("[{type: custom, function: 'json:no_such'}]", ("stages.ppo.rewards: ", "no_such")),
        (
            "[{type: rules, checks: [{check: no_words_of_field, field: pakage}]}]",
            ("stages.ppo.rewards: ", "'pakage'", "package"),
        ),
        ("[{type: ends_properly, weight: 0}]", ("stages.ppo.rewards: every weight is 0", "give one of them a weight")),
    ],
)
def test_rewards_that_cannot_work(base: Path, rewards: str, named: tuple[str, ...]) -> None:
    message = refusal(base, f"stages.ppo.rewards={rewards}", error=ConfigError)
    for part in named:
        assert part in message


def test_an_embedding_model_that_is_not_there(base: Path) -> None:
    message = refusal(base, "stages.ppo.rewards=[{type: embedding_similarity, model: ./nowhere}]", error=ModelError)
    assert "stages.ppo.rewards: " in message
    assert "./nowhere" in message


@pytest.mark.parametrize(
    "name, named",
    [
        ("./nowhere", "'./nowhere' does not exist"),
        ("just-a-word", "neither 'default', nor an existing folder, nor a hub id"),
    ],
)
def test_a_model_that_is_not_there(base: Path, name: str, named: str) -> None:
    message = refusal(base, f"model.name={name}", error=ModelError)
    assert message.startswith("model.name: ")
    assert named in message


def test_a_model_folder_with_pickled_weights(base: Path) -> None:
    (base / "model" / "model.safetensors").rename(base / "model" / "pytorch_model.bin")
    assert "only as pickle" in refusal(base, error=ModelError)


def test_a_model_that_was_cut_short_while_copying(base: Path) -> None:
    weights = base / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    message = refusal(base, error=ModelError)
    assert "cut short" in message
    assert "Copy the model again" in message
    weights.write_bytes(b"\x05")
    assert "is no safetensors file or is damaged" in refusal(base, error=ModelError)


def test_a_configuration_that_is_none_of_a_language_model(base: Path) -> None:
    write_model(base / "model", vocab_size=None)
    assert "config.json has no vocab_size" in refusal(base, error=ModelError)


@pytest.mark.parametrize(
    "overrides, named",
    [
        (
            [
                "model.max_length=2048",
                "stages.sft.learner.max_row_tokens=2048",
                "stages.ppo.learner.max_row_tokens=2048",
            ],
            ("model.max_length is 2048", "has 1024 tokens", "lower model.max_length to 1024"),
        ),
        (
            ["stages.ppo.learner.freeze.bottom_layers=4"],
            ("stages.ppo.learner.freeze.bottom_layers is 4", "has 3 layers", "at most 3"),
        ),
        (
            ["stages.sft.learner.freeze.bottom_layers=3", "stages.sft.learner.freeze.embeddings=true"],
            ("stages.sft.learner.freeze leaves nothing to train",),
        ),
        (["model.lora.target_modules=[q_proj, o_proj]"], ("no matrix 'o_proj'", "k_proj, q_proj, up_proj")),
        (["stages.ppo.sampling.min_tokens=65"], ("sampling.min_tokens (65) is above max_tokens (64)",)),
        (["stages.ppo.kl={coefficient: 0, adaptive: {}}"], ("stages.ppo.kl.coefficient is 0", "start from .02")),
        (["stages.sft.optimizer.betas=[.9, 1.0]"], ("stages.sft.optimizer.betas: 1.0 is no decay rate",)),
        (
            ["stages.ppo.advantage={type: gae, critic: {type: model, optimizer: {betas: [-1, .9]}}}"],
            ("stages.ppo.advantage.critic.optimizer.betas: -1.0",),
        ),
    ],
)
def test_settings_that_do_not_fit_the_model_or_each_other(
    base: Path, overrides: list[str], named: tuple[str, ...]
) -> None:
    message = refusal(base, *overrides, error=ConfigError)
    for part in named:
        assert part in message


def test_a_cache_that_holds_no_whole_sequence_is_refused_on_cpu_only(base: Path) -> None:
    # keys and values: 2 * 3 layers * 2 heads * 2000 wide * 2 bytes * 512 tokens = 23.4 MiB
    write_model(base / "model", head_dim=2000)
    message = refusal(base, "stages.ppo.rollout.kv_cache_mb=23", error=ConfigError)
    assert "stages.ppo.rollout.kv_cache_mb is 23" in message
    assert "takes 24 MiB" in message
    assert plan_of(base, "stages.ppo.rollout.kv_cache_mb=24").name == "run"
    assert plan_of(base, "stages.ppo.rollout.kv_cache_mb=23", available=SERVER).name == "run"


def test_heads_that_do_not_divide_over_gpus(base: Path) -> None:
    message = refusal(base, "stages.ppo.rollout.tensor_parallel=3", error=ConfigError, available=SERVER)
    assert "stages.ppo.rollout.tensor_parallel is 3" in message
    assert "4 attention heads" in message


def test_more_gpus_than_there_are(base: Path) -> None:
    message = refusal(base, "stages.sft.learner={device: cuda, num_ranks: 2}", error=ResourceError)
    assert "stages.sft asks for 2 GPUs at once (learner.num_ranks 2), but this machine has 0" in message
    assert "learner.device to cpu" in message
    overrides = ["stages.ppo.learner.num_ranks=4", "stages.ppo.rollout={num_engines: 3, tensor_parallel: 2}"]
    message = refusal(base, *overrides, error=ResourceError, available=SERVER)
    assert "asks for 10 GPUs" in message
    assert "learner.num_ranks 4 + rollout.num_engines 3 x rollout.tensor_parallel 2" in message
    assert "has 8" in message


def test_more_cpus_than_the_recipe_gives_its_own_cluster(base: Path) -> None:
    message = refusal(base, "cluster.num_cpus=2", error=ResourceError)
    assert "stages.ppo asks for 3 CPUs at once, but cluster.num_cpus is 2; raise it to 3" in message


def test_a_tracker_that_is_not_installed(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlft_core.plan.make.importlib.util.find_spec", lambda name: None)
    message = refusal(base, "tracking.sinks=[mlflow]", error=ConfigError)
    assert "tracking.sinks: mlflow is not installed; run: pip install 'rlft[mlflow]'" in message


# Rows


def test_rows_set_aside_by_number_share_and_file(base: Path) -> None:
    both = rows_of(recipe_in(base, "data.validation=10", "data.test=0.1").data, base, 0)
    assert [len(side) for side in (both.train, both.validation, both.test)] == [44, 10, 6]
    mixed = rows_of(recipe_in(base, "data.validation=10").data, base, 0)
    assert [len(side) for side in (mixed.train, mixed.validation, mixed.test)] == [50, 10, 40]
    none = rows_of(recipe_in(base).data, base, 0)
    assert [len(side) for side in (none.train, none.validation, none.test)] == [60, 0, 40]


def test_the_limit_does_not_change_what_is_held_out(base: Path) -> None:
    whole = rows_of(recipe_in(base, "data.test=10").data, base, 0)
    limited = rows_of(recipe_in(base, "data.test=10", "data.limit=7").data, base, 0)
    assert limited.test == whole.test
    assert limited.train == whole.train[:7]
    assert [row.input for row in rows_of(recipe_in(base, "data.limit=2").data, base, 0).train] == ["text 0", "text 1"]


def test_the_seed_decides_what_is_set_aside(base: Path) -> None:
    data = recipe_in(base, "data.test=10").data
    assert rows_of(data, base, 0).test == rows_of(data, base, 0).test
    assert rows_of(data, base, 0).test != rows_of(data, base, 1).test


def test_a_family_is_never_split(base: Path) -> None:
    write_rows(base / "train.jsonl", 30, family="same")
    with pytest.raises(DataError, match="no row for test"):
        rows_of(recipe_in(base, "data.test=10", "data.family_field=family").data, base, 0)


# The size of a model and the memory of its processes


def test_the_size_of_a_model_is_read_from_its_headers(base: Path) -> None:
    size = model_size(base / "model")
    assert size.num_parameters == 6400 + 64 + 3 * 14400
    assert (size.embedding_parameters, size.layer_parameters) == (6400, (14400, 14400, 14400))
    assert (size.num_layers, size.hidden_size, size.vocab_size, size.context) == (3, 64, 100, 1024)
    assert (size.num_heads, size.num_kv_heads, size.head_dim, size.kv_values_per_token) == (4, 2, 16, 2 * 3 * 2 * 16)
    assert size.adapted_widths == 3 * (128 + 96 + 192)
    assert size.matrix_names == {"q_proj", "k_proj", "up_proj"}
    assert size.trainable() == size.num_parameters
    assert size.trainable(freeze_embeddings=True, bottom_layers=2) == 64 + 14400
    assert size.trainable(lora_rank=8) == 8 * 1248


def test_a_configuration_in_parts_and_without_a_bound(base: Path) -> None:
    folder = write_model(base / "model", max_position_embeddings=None)
    assert model_size(folder).context is None
    inner = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"text_config": inner, "vision_config": {"hidden_size": 7}}))
    assert model_size(folder).hidden_size == 64


def test_the_header_has_names_and_shapes(base: Path) -> None:
    header = read_header(base / "model" / "model.safetensors")
    assert header["model.layers.1.mlp.up_proj.weight"]["shape"] == [128, 64]


def a_size() -> ModelSize:
    """10 layers of 1 M parameters, 2 M of embeddings."""
    return ModelSize(
        num_parameters=12_000_000,
        embedding_parameters=2_000_000,
        layer_parameters=(1_000_000,) * 10,
        adapted_widths=30_000,
        matrix_names=frozenset(),
        hidden_size=100,
        vocab_size=20_000,
        num_heads=5,
        num_kv_heads=5,
        head_dim=20,
        context=512,
    )


def test_memory_of_a_learner_adds_up() -> None:
    def learner(**changes: Any) -> int:
        settings: dict[str, Any] = {
            "num_trainable": 12_000_000,
            "num_ranks": 1,
            "compute_bytes": 2,
            "num_positions": 1000,
        }
        settings |= {"checkpointing": False, "has_reference": False, "has_critic": False, **changes}
        return learner_bytes(a_size(), **settings)

    plain = learner()
    assert learner(num_trainable=2_000_000) - plain == -10_000_000 * 12
    assert learner(has_reference=True) - plain == 12_000_000 * 2
    assert learner(has_reference=True, compute_bytes=4) - learner(compute_bytes=4) == 12_000_000 * 4
    assert learner(has_critic=True) - plain == 12_000_000 * 16
    assert plain - learner(num_ranks=2) == 12_000_000 * (4 + 12 + 2) // 2
    assert learner(num_positions=2000) - plain == 10 * 1000 * 100 * 34
    assert 600 * MIB < plain < GIB + 12_000_000 * 18 + 10 * 1000 * 100 * 34


def test_activations_follow_the_published_estimate() -> None:
    assert activation_bytes(a_size(), num_positions=1000, compute_bytes=2, checkpointing=False) == 10 * 1000 * 100 * 34
    checkpointed = activation_bytes(a_size(), num_positions=1000, compute_bytes=2, checkpointing=True)
    assert checkpointed == 10 * 1000 * 100 * 2 + 1000 * 100 * 34


def test_memory_of_engines_scorers_and_checkpoints() -> None:
    assert engine_bytes(500, kv_cache_bytes=70) - engine_bytes(0, kv_cache_bytes=0) == 570
    assert scorer_bytes(1_000_000) - scorer_bytes(0) == 4_000_000
    assert checkpoint_bytes(a_size(), num_trainable=2_000_000, has_critic=False) == 48_000_000 + 16_000_000
    assert checkpoint_bytes(a_size(), num_trainable=0, has_critic=True) == 48_000_000 + 144_000_000


def test_the_reference_is_counted_only_where_there_is_one(base: Path) -> None:
    def memory(*overrides: str) -> int:
        found = plan_of(base, *overrides).stages[1].actors[0].memory_bytes
        assert found is not None
        return found

    num_parameters = 6400 + 64 + 3 * 14400
    assert memory() - memory("stages.ppo.kl.coefficient=0") == 2 * num_parameters
    assert memory("stages.ppo.kl.coefficient=0", "stages.ppo.advantage={type: gae}") == memory()
    assert memory("stages.ppo.advantage={type: gae, critic: {type: model}}") - memory() == 16 * num_parameters


def test_disk_of_a_stage_is_its_checkpoints_one_more_and_its_model(base: Path) -> None:
    num_parameters = 6400 + 64 + 3 * 14400
    plan = plan_of(base, "stages.ppo.checkpoint.every=10", "stages.sft.checkpoint.every=100")
    assert [stage.disk_bytes for stage in plan.stages] == [
        2 * 12 * num_parameters + 2 * num_parameters,
        3 * 12 * num_parameters + 2 * num_parameters,
        0,
    ]
    assert plan.disk_bytes == (2 + 3) * 12 * num_parameters + 4 * num_parameters


def test_planning_without_a_tokenizer_waits_for_no_heavy_import() -> None:
    code = (
        "import sys, rlft_core.plan; print([m for m in ('torch', 'transformers', 'ray', 'vllm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
