"""The plan with a tokenizer: prompts and outputs measured in tokens before a process starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlft_core.config.load import parse_recipe
from rlft_core.errors import DataError, ModelError, UserError
from rlft_core.models.tiny import make_tiny_model
from rlft_core.plan import Available, Plan, make_plan

LAPTOP = Available(num_cpus=2, num_gpus=0, memory_bytes=16 << 30, disk_free_bytes=100 << 30)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", context=256)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    # Byte-level tokens of random digits: nothing for the tokenizer to merge, so one character is one token.
    texts = ["12345", "0987654321", "5"]
    write(tmp_path / "train.jsonl", [{"input": text, "output": "42"} for text in texts])
    write(tmp_path / "test.jsonl", [{"input": f"{k}7", "output": "1"} for k in range(4)])
    return tmp_path


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def plan_of(base: Path, model: Path, *overrides: str, **data: Any) -> Plan:
    content = {
        "model": {"name": str(model), "max_length": 40, "dtype": "float32"},
        "data": {
            "train": "train.jsonl",
            "test": "test.jsonl",
            "prompt": {"chat": False},
            "max_prompt_tokens": 20,
            **data,
        },
        "stages": [
            {"type": "sft"},
            {"type": "ppo", "rewards": [{"type": "ends_properly"}], "sampling": {"max_tokens": 20}},
            {"type": "evaluate", "systems": {"rl": "ppo"}, "max_tokens": 20},
        ],
    }
    return make_plan(parse_recipe(content, overrides), base_dir=base, available=LAPTOP)


def refusal(base: Path, model: Path, *overrides: str, error: type[UserError]) -> str:
    with pytest.raises(error) as caught:
        plan_of(base, model, *overrides)
    return str(caught.value)


def test_prompts_are_measured(base: Path, model: Path) -> None:
    lengths = plan_of(base, model).prompt_tokens
    assert set(lengths) == {"train", "test"}
    assert (lengths["train"].longest, lengths["train"].num_skipped) == (10, 0)
    assert lengths["train"].mean == pytest.approx(16 / 3, abs=1e-12)
    assert (lengths["test"].mean, lengths["test"].longest) == (2.0, 2)


def test_a_prompt_that_is_too_long_is_named(base: Path, model: Path) -> None:
    message = refusal(base, model, "data.max_prompt_tokens=9", error=DataError)
    assert "the prompt of row train:2 has 10 tokens, more than max_prompt_tokens = 9" in message
    assert "too_long to 'skip'" in message


def test_long_prompts_are_counted_where_they_may_be_left_out(base: Path, model: Path) -> None:
    lengths = plan_of(base, model, "data.max_prompt_tokens=9", "data.too_long=skip").prompt_tokens
    assert (lengths["train"].num_skipped, lengths["test"].num_skipped) == (1, 0)


def test_an_output_that_does_not_fit_beside_its_prompt_is_named(base: Path, model: Path) -> None:
    write(base / "train.jsonl", [{"input": "1", "output": "2"}, {"input": "12345", "output": "7" * 35}])
    message = refusal(base, model, error=DataError)
    assert "data.train: row train:2 has 5 tokens of prompt and 36 of output" in message
    assert "model.max_length (40)" in message
    assert "1 of 2 rows" in message
    assert plan_of(base, model, "data.too_long=skip").prompt_tokens["train"].num_skipped == 1


def test_outputs_that_are_only_validated_on_must_fit_too(base: Path, model: Path) -> None:
    write(base / "validation.jsonl", [{"input": "81", "output": "7" * 60}])
    message = refusal(base, model, "data.validation=validation.jsonl", error=DataError)
    assert "data.validation: row validation:1 has 2 tokens of prompt and 61 of output" in message


def test_a_tokenizer_of_another_model_is_refused(base: Path, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in model.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    message = refusal(base, other, error=ModelError)
    assert "they do not belong together" in message
    assert "only 100" in message


def test_a_model_without_a_tokenizer_is_refused(base: Path, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "bare"
    other.mkdir()
    for name in ("config.json", "model.safetensors"):
        (other / name).write_bytes((model / name).read_bytes())
    assert "has no usable tokenizer" in refusal(base, other, error=ModelError)
