"""The size of a model from its headers, and the memory and disk a plan foresees."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rlft_core.models.memory import activation_bytes, checkpoint_bytes, engine_bytes, learner_bytes, scorer_bytes
from rlft_core.models.size import ModelSize, model_size, read_header
from tests.unit.plan.parts import GIB, MIB, plan_of, write_model


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
