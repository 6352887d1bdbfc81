"""Which model folder RUN[:STAGE][@STEP] means, what is never served, and what may take another's place."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlft_core.checkpoints.folder import write_manifest
from rlft_core.errors import CheckpointError, ConfigError
from rlft_core.serving.checkpoints import check_model_name, find_checkpoint, parse_spec
from rlft_core.serving.fit import check_fit
from rlft_core.serving.steps import merged
from rlft_core.serving.types import Spec


@pytest.fixture
def own_runs(runs_dir: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(runs_dir, tmp_path / "runs"))


def test_names_of_runs_stages_and_steps() -> None:
    assert parse_spec("last-mile") == Spec("last-mile")
    assert parse_spec("last.mile_2:ppo@40") == Spec("last.mile_2", "ppo", 40)
    assert parse_spec("a@0") == Spec("a", None, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "..",
        "../a",
        "a/b",
        "/etc",
        "a:../b",
        "a:b/c",
        ".hidden",
        "a@",
        "a@-1",
        "a@x",
        "a:",
        "~",
        "a\n",
        "a\x00",
        "a b",
    ],
)
def test_paths_are_no_names(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is no RUN\[:STAGE\]\[@STEP\].*they are not paths"):
        parse_spec(text)


@pytest.mark.parametrize(
    "text",
    ["a@1234567890", "%2e%2e", "a\\b", "é", "a@٣"],
)
def test_other_tricks_are_no_names(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is no RUN\[:STAGE\]\[@STEP\].*they are not paths"):
        parse_spec(text)


def test_names_of_models() -> None:
    assert check_model_name("org/name:v1@3") == "org/name:v1@3"
    for name in ("", "a b", "a/../b", "-a", "x" * 129):
        with pytest.raises(ConfigError, match=r"a model's name has letters"):
            check_model_name(name)


def test_a_run_stands_for_its_last_tuned_model(runs_dir: Path, tmp_path: Path) -> None:
    found = find_checkpoint(parse_spec("first"), runs_dir, tmp_path)
    assert found.label == "first:sft"
    assert found.folder == str(runs_dir / "first" / "stages" / "sft" / "model")
    assert (found.kind, found.max_length, found.dtype) == ("policy", 256, "bfloat16")
    assert (found.system, found.template) == ("Be short.", "Sum up: {input}")
    assert find_checkpoint(parse_spec("first:reward_model"), runs_dir, tmp_path).kind == "reward"


def test_the_last_steps_checkpoint_is_the_model(runs_dir: Path, tmp_path: Path) -> None:
    found = find_checkpoint(parse_spec("first:sft@6"), runs_dir, tmp_path)
    assert found.folder == str(runs_dir / "first" / "stages" / "sft" / "model")


def test_an_earlier_step_is_put_together_from_its_start_and_what_was_trained(runs_dir: Path, tmp_path: Path) -> None:
    found = find_checkpoint(parse_spec("first@4"), runs_dir, tmp_path / "exports")
    assert found.label == "first:sft@4"
    folder = Path(found.folder)
    assert folder == tmp_path / "exports" / "first" / "sft" / "step-000004"
    weights = load_file(folder / "model.safetensors")
    start = load_file(runs_dir.parent / "start-first" / "model.safetensors")
    assert weights.keys() == start.keys()
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert all(torch.equal(weights[name], start[name]) for name in start)
    assert (folder / "tokenizer.json").is_file()
    # Asked for again, it is not made again.
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert find_checkpoint(parse_spec("first:sft@4"), runs_dir, tmp_path / "exports") == found
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_adapters_are_added_to_what_they_adapt() -> None:
    start = {"a.weight": torch.zeros(2, 3), "b.weight": torch.ones(2)}
    name = "lm.base_model.model.a.lora_{}.default.weight"
    trained = {name.format("A"): torch.tensor([[1.0, 2.0, 3.0]]), name.format("B"): torch.tensor([[1.0], [10.0]])}
    found = merged(start, trained, scale=2.0)
    assert found["a.weight"].tolist() == [[2.0, 4.0, 6.0], [20.0, 40.0, 60.0]]
    assert found["b.weight"].tolist() == [1.0, 1.0]


def test_weights_that_the_start_does_not_have_are_refused() -> None:
    start = {"a.weight": torch.zeros(2, 3)}
    with pytest.raises(CheckpointError, match=r"trained b.weight, which the model it started from does not have"):
        merged(start, {"lm.b.weight": torch.zeros(2)}, scale=1.0)
    with pytest.raises(CheckpointError, match=r"has as \[2, 3\], not \[3, 2\]"):
        merged(start, {"lm.a.weight": torch.zeros(3, 2)}, scale=1.0)
    lone = {"lm.base_model.model.a.lora_A.default.weight": torch.zeros(1, 3)}
    with pytest.raises(CheckpointError, match=r"adapts a.weight"):
        merged(start, lone, scale=1.0)


@pytest.mark.parametrize(
    "spec, said",
    [
        ("third", r"there is no run 'third' in .*; there are: first, high, low, second"),
        ("first:ppo", r"run 'first' has no stage 'ppo' that makes a model; there are: sft, reward_model"),
        ("first:sft@5", r"first:sft has no checkpoint of step 5; there are: 4, and its result without @"),
        ("first:reward_model@2", r"a reward model's scale is known at its end only; leave out @2"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(spec: str, said: str, runs_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        find_checkpoint(parse_spec(spec), runs_dir, tmp_path)


def test_a_model_that_is_half_written_is_never_served(own_runs: Path, tmp_path: Path) -> None:
    model = own_runs / "first" / "stages" / "sft" / "model"
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"first:sft: the model .* was not written completely.*it is not served"):
        find_checkpoint(parse_spec("first"), own_runs, tmp_path)
    (model / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"was not written completely"):
        find_checkpoint(parse_spec("first"), own_runs, tmp_path)
    shutil.rmtree(model)
    with pytest.raises(CheckpointError, match=r"is not there yet; it is not served. Run the recipe to its end"):
        find_checkpoint(parse_spec("first:sft"), own_runs, tmp_path)
    with pytest.raises(ConfigError, match=r"run 'first' has no tuned model yet"):
        find_checkpoint(parse_spec("first"), own_runs, tmp_path)


def test_a_checkpoint_that_is_half_written_is_never_served(own_runs: Path, tmp_path: Path) -> None:
    step = own_runs / "first" / "stages" / "sft" / "checkpoints" / "step-000004"
    (step / "policy.safetensors").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"first:sft@4: this checkpoint was not written completely; it is not served"
    ):
        find_checkpoint(parse_spec("first@4"), own_runs, tmp_path)


def test_a_step_whose_start_is_gone_says_so(own_runs: Path, tmp_path: Path) -> None:
    step = own_runs / "first" / "stages" / "sft" / "checkpoints" / "step-000004"
    (step / "state.json").write_text(json.dumps({"step": 4, "start": str(tmp_path / "gone")}))
    recipe = own_runs / "first" / "recipe.resolved.json"
    content = json.loads(recipe.read_text())
    content["model"]["name"] = "some/model"
    write_manifest(step)
    with pytest.raises(CheckpointError, match=r"holds what was trained only, and the model it started from"):
        find_checkpoint(parse_spec("first@4"), own_runs, tmp_path)


def test_only_the_same_network_with_the_same_tokenizer_takes_anothers_place(own_runs: Path, tmp_path: Path) -> None:
    served = find_checkpoint(parse_spec("first"), own_runs, tmp_path)
    new = find_checkpoint(parse_spec("second"), own_runs, tmp_path)
    check_fit(new, served)
    with pytest.raises(
        CheckpointError, match=r"second:sft cannot take the place of first:sft: its precision is float32"
    ):
        check_fit(replace(new, dtype="float32"), served)
    reward = find_checkpoint(parse_spec("first:reward_model"), own_runs, tmp_path)
    with pytest.raises(CheckpointError, match=r"first:reward_model is a reward model and first:sft a policy model"):
        check_fit(reward, served)
    folder = Path(new.folder)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"extra": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"its weight extra has the shape \[2\], not None. Serve it under a name"):
        check_fit(new, served)
    save_file(weights, folder / "model.safetensors")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    with pytest.raises(CheckpointError, match=r"its chat_template.jinja is another one, so it reads other tokens"):
        check_fit(new, served)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 3}))
    with pytest.raises(CheckpointError, match=r"its num_hidden_layers is 3, not 2"):
        check_fit(new, served)
