"""A reward model as large as the policy: a sequence classifier with a random head, for the benchmark's fourth model.

`make` writes it once as an ordinary model folder, which the peer loads too. `score` is the function that the recipe
names. Its numbers mean nothing; its cost is that of a real reward model. A group's prompt is computed once, as
everywhere in rlft.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from rlft_core.batching.packing import number_tokens, pack
from rlft_core.data import encode_prompt
from rlft_core.models.attention import attention_kind, to_device
from rlft_core.models.loading import load_tokenizer
from rlft_core.models.policy import hidden_states
from rlft_core.rewards.protocol import Sample

_MAX_ROW_TOKENS = 2048
_HEAD_SEED = 0


def make(model: str, folder: Path) -> Path:
    """Write a reward model with the backbone of `model` and a seeded random head; does nothing when it is there."""
    if (folder / "config.json").is_file():
        return folder
    torch.manual_seed(_HEAD_SEED)
    classifier: Any = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.float32)
    tokenizer = load_tokenizer(model)
    classifier.config.pad_token_id = tokenizer.pad_token_id
    classifier.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def score(samples: Sequence[Sample], *, folder: str, system: str) -> list[float]:
    """One number for each completion of a group: the head's value of the state after its last token."""
    model, tokenizer = _load(folder)
    prompt = encode_prompt(tokenizer, samples[0].row, system=system, template="{input}", chat=True)
    # A state is selected by the token it predicts, so one token more selects the state of the last one.
    completions = [[*sample.token_ids.tolist(), 0] for sample in samples]
    groups = number_tokens([(list(prompt), completions)])
    ends = torch.tensor([len(c) for c in completions]).cumsum(0) - 1
    values = torch.empty(int(ends[-1]) + 1)
    with torch.no_grad():
        for micro in pack(groups, max_tokens=_MAX_ROW_TOKENS, multiple=8):
            rows = to_device(micro, torch.device("cpu"), attention_kind(torch.device("cpu")))
            hidden = hidden_states(model.base_model, rows)
            values[rows.tokens] = model.score(hidden).float().squeeze(-1)
    found: list[float] = values[ends].tolist()
    return found


@lru_cache(maxsize=1)
def _load(folder: str) -> tuple[Any, Any]:
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    return model.eval(), load_tokenizer(folder)
