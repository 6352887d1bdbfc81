"""Models, sizes and machines that cannot work are refused before a process starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlft_core.errors import ConfigError, ModelError, ResourceError
from tests.unit.plan.parts import SERVER, plan_of, refusal, write_model


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
