"""Adapters as folders of their own: what is found, what is written, who shares an engine, and what fits beside what."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlft_core.checkpoints.adapter import adapter_of_checkpoint
from rlft_core.config.model import LoraConfig
from rlft_core.errors import CheckpointError, ConfigError
from rlft_core.serving.checkpoints import find_checkpoint, parse_spec
from rlft_core.serving.fit import check_fit
from rlft_core.serving.state import Served, read_state, resumed, write_state
from rlft_core.serving.types import Checkpoint
from services.serving.routes import pools_of
from services.weights.adapter_room import room_for

IDS = torch.tensor([[5, 9, 2, 7, 100, 3]])


def found(spec: str, runs_dir: Path, exports: Path, *, merged: bool = False) -> Checkpoint:
    return find_checkpoint(parse_spec(spec), runs_dir, exports, merged=merged)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        answer: torch.Tensor = model(IDS).logits
    return answer


@pytest.mark.parametrize("spec", ["low", "low@4"])
def test_an_adapter_on_its_base_is_the_merged_model(spec: str, runs_dir: Path, tmp_path: Path) -> None:
    adapter, whole = found(spec, runs_dir, tmp_path), found(spec, runs_dir, tmp_path, merged=True)
    assert (adapter.base, adapter.rank) == (str(runs_dir.parent / "base"), 4)
    assert (whole.base, whole.rank, whole.label) == ("", 0, adapter.label)
    base = AutoModelForCausalLM.from_pretrained(adapter.base, dtype=torch.float32)
    plain = logits(base)
    beside = logits(PeftModel.from_pretrained(base, adapter.folder))
    merged = logits(AutoModelForCausalLM.from_pretrained(whole.folder, dtype=torch.float32))
    # Both were rounded to bfloat16 when they were written, one before and one after it was merged.
    assert float((beside - merged).abs().max()) < 0.05 * float((beside - plain).abs().max())


def test_a_step_is_another_adapter_than_the_result(runs_dir: Path, tmp_path: Path) -> None:
    result, step = found("low", runs_dir, tmp_path), found("low@4", runs_dir, tmp_path)
    one, other = (load_file(Path(c.folder) / "adapter_model.safetensors") for c in (result, step))
    assert one.keys() == other.keys()
    assert not any(torch.equal(one[name], other[name]) for name in one)
    before = (Path(step.folder) / "adapter_model.safetensors").stat().st_mtime_ns
    assert found("low@4", runs_dir, tmp_path) == step
    assert (Path(step.folder) / "adapter_model.safetensors").stat().st_mtime_ns == before


def test_a_run_of_before_that_left_no_adapter_is_served_merged(runs_dir: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(runs_dir, tmp_path / "runs"))
    model = own / "low" / "stages" / "sft" / "model"
    shutil.rmtree(model / "adapter")
    manifest = json.loads((model / "manifest.json").read_text())
    left = {name: size for name, size in manifest.items() if not name.startswith("adapter/")}
    (model / "manifest.json").write_text(json.dumps(left))
    assert found("low", own, tmp_path).base == ""
    assert found("low", own, tmp_path).folder == str(model)


def test_without_its_base_the_merged_weights_are_served(runs_dir: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(runs_dir, tmp_path / "runs"))
    home = own / "low"
    gone = str(tmp_path / "gone")
    recipe = json.loads((home / "recipe.resolved.json").read_text())
    recipe["model"]["name"] = gone
    (home / "recipe.resolved.json").write_text(json.dumps(recipe))
    config = home / "stages" / "sft" / "model" / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": gone}))
    manifest = home / "stages" / "sft" / "model" / "manifest.json"
    sizes = json.loads(manifest.read_text()) | {"adapter/adapter_config.json": config.stat().st_size}
    manifest.write_text(json.dumps(sizes))
    assert found("low", own, tmp_path).base == ""


def test_a_checkpoint_that_trained_more_than_an_adapter_is_none() -> None:
    with pytest.raises(CheckpointError, match=r"trained lm.embed.weight, which is no part of an adapter"):
        adapter_of_checkpoint({"lm.embed.weight": torch.zeros(2)}, LoraConfig(), Path("base"))


def test_adapters_of_one_base_share_a_pool_and_nobody_else_does(runs_dir: Path, tmp_path: Path) -> None:
    names = {"a": "low", "x": "first", "b": "high", "y": "second"}
    served = [Served(name, spec, found(spec, runs_dir, tmp_path)) for name, spec in names.items()]
    assert {pool: [one.name for one in group] for pool, group in pools_of(served).items()} == {
        "a+b": ["a", "b"],
        "x": ["x"],
        "y": ["y"],
    }
    other = replace(served[2], current=replace(served[2].current, dtype="float32"))
    assert list(pools_of([served[0], other])) == ["a", "b"]
    merged = [Served(n, s, found(s, runs_dir, tmp_path, merged=True)) for n, s in (("a", "low"), ("b", "high"))]
    assert list(pools_of(merged)) == ["a", "b"]


def test_what_takes_an_adapters_place_is_an_adapter_of_the_same_base(runs_dir: Path, tmp_path: Path) -> None:
    low, high = found("low", runs_dir, tmp_path), found("high", runs_dir, tmp_path)
    whole = found("first", runs_dir, tmp_path)
    check_fit(found("low@4", runs_dir, tmp_path), low, max_rank=4)
    check_fit(low, high, max_rank=12)
    with pytest.raises(CheckpointError, match=r"its rank is 12, and the engine has room for 4. Serve it under a name"):
        check_fit(high, low, max_rank=4)
    with pytest.raises(CheckpointError, match=r"it is a whole model, not an adapter of .*base"):
        check_fit(whole, low, max_rank=4)
    with pytest.raises(CheckpointError, match=r"it is an adapter of .*base, not a whole model"):
        check_fit(low, whole)


def test_a_restart_keeps_what_was_promoted_unless_it_is_served_in_another_form(runs_dir: Path, tmp_path: Path) -> None:
    low, step = found("low", runs_dir, tmp_path), found("low@4", runs_dir, tmp_path)
    fresh = Served("m", "low", low)
    before = fresh.promoted(step).with_canary(low, 10.0)
    write_state(tmp_path / "state.json", {"m": before})
    assert read_state(tmp_path / "state.json")["m"] == before
    kept, told = resumed(fresh, before)
    assert kept == before
    assert told == "model 'm' stands for low:sft@4, which was promoted; rlft rollback undoes it"
    merged = Served("m", "low", found("low", runs_dir, tmp_path, merged=True))
    kept, told = resumed(merged, before)
    assert kept == merged
    assert told == "low:sft@4, promoted before, was another form of its weights: low:sft is served"
    assert fresh.promoted(replace(step, rank=16)).rolled_back().largest_rank == 4
    assert fresh.promoted(replace(step, rank=16)).promoted(low).largest_rank == 16


def test_engines_make_room_in_steps() -> None:
    assert [room_for(rank) for rank in (1, 8, 9, 32, 300, 512)] == [8, 8, 16, 32, 320, 512]
    with pytest.raises(ConfigError, match=r"rank 600 do not fit into an engine; the largest rank is 512"):
        room_for(600)
