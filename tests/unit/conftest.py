"""What many tests need: a tiny model, made once, and its log-probs computed the plain way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rlft_core.models.tiny import make_tiny_model

PlainLogprobs = Callable[..., list[float]]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama in float32, tied embeddings, seed 0. Read only."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def plain_logprobs() -> PlainLogprobs:
    """(lm, prompt, completion, temperature) -> log-prob of each completion token, by the whole model, alone."""

    @torch.no_grad()
    def compute(lm: Any, prompt: Sequence[int], completion: Sequence[int], temperature: float = 1.0) -> list[float]:
        logits = lm(torch.tensor([[*prompt, *completion]])).logits[0].double() / temperature
        found = []
        for offset, token in enumerate(completion):
            row = logits[len(prompt) - 1 + offset].tolist()
            top = max(row)
            found.append(row[token] - top - math.log(math.fsum(math.exp(z - top) for z in row)))
        return found

    return compute
