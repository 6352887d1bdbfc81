"""The attention of GPU models, as far as it can be told without a GPU: precision, and padded rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from rlft_core.batching.packing import number_tokens, pad
from rlft_core.models import flex
from rlft_core.models.attention import to_device
from rlft_core.models.loading import load_lm
from rlft_core.models.policy import Policy
from rlft_core.models.tiny import make_tiny_model

CPU = torch.device("cpu")


def causal(b: Any, h: Any, query: Any, key: Any) -> Any:
    return query >= key


@pytest.mark.parametrize(("autocast", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_flex_attention_gets_the_precision_of_autocast(
    autocast: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.dtype] = []

    def record(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> tuple[Any, None]:
        seen.extend([query.dtype, key.dtype, value.dtype])
        return query, None

    monkeypatch.setattr(flex, "flex_attention_forward", record)
    # Rotary embeddings leave queries and keys in float32; the value's product was cast.
    query, key = torch.randn(1, 2, 128, 32), torch.randn(1, 2, 128, 32)
    value = torch.randn(1, 2, 128, 32, dtype=torch.bfloat16 if autocast else torch.float32)
    mask = create_block_mask(causal, None, None, 128, 128, device="cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        flex.attend(torch.nn.Identity(), query, key, value, mask)
    assert seen == [expected] * 3


def test_padded_rows_are_plainly_causal(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "tiny")
    rng = np.random.default_rng(0)
    groups = number_tokens([(rng.integers(0, 300, 9).tolist(), [rng.integers(0, 300, n).tolist() for n in (5, 2, 7)])])
    found = []
    for kind in ("flex", "dense"):
        policy = Policy(load_lm(folder, attention=kind))
        (micro,) = pad(groups, max_tokens=64, multiple=8)
        with torch.no_grad():
            found.append(policy(to_device(micro, CPU, kind)).logprobs)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
    assert float(found[0].std()) > 0.1
