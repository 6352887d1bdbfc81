"""Whether a model can take packed rows is found by trying."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from rlft_core.models.dense import DENSE_ATTENTION
from rlft_core.models.loading import load_lm
from rlft_core.models.packable import why_not_packable
from rlft_core.models.policy import Policy
from rlft_core.models.tiny import Family, make_tiny_model


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_transformers_take_packed_rows(family: Family, tmp_path: Path) -> None:
    policy = Policy(load_lm(make_tiny_model(tmp_path / "m", family=family), attention="dense"))
    assert why_not_packable(policy, attention="dense", max_row_tokens=512) is None


def test_a_state_space_model_does_not(tmp_path: Path) -> None:
    policy = Policy(load_lm(make_tiny_model(tmp_path / "m", family="mamba"), attention="dense"))
    reason = why_not_packable(policy, attention="dense", max_row_tokens=512)
    assert reason is not None
    assert "takes no mask" in reason


def test_a_model_that_ignores_the_mask_is_found_out(tiny_folder: Path) -> None:
    """Its positions see all that stands before them in the row."""
    lm = load_lm(tiny_folder, attention="dense")
    lm.model.register_forward_pre_hook(lambda _, args, keys: (args, keys | {"attention_mask": None}), with_kwargs=True)
    reason = why_not_packable(Policy(lm), attention="dense", max_row_tokens=512)
    assert reason is not None
    assert "some layer ignores the attention mask" in reason


@pytest.mark.parametrize("window, reason", [(64, "its sliding window (64) is shorter than a row (512)"), (512, None)])
def test_a_sliding_window_shorter_than_a_row(window: int, reason: str | None, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "m", family="mistral")
    config = AutoConfig.from_pretrained(folder, sliding_window=window)
    policy = Policy(
        AutoModelForCausalLM.from_pretrained(folder, config=config, attn_implementation=DENSE_ATTENTION).eval()
    )
    assert why_not_packable(policy, attention="dense", max_row_tokens=512) == reason
