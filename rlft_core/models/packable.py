"""Can this model take packed rows? Asked of the model itself, by computing the same thing both ways.

State-space layers carry a state along the row, whatever the mask says; a sliding window counts positions in the row.
Neither can be told from a list of names, so a small group is computed packed and unpacked and the results compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rlft_core.batching.packing import MicroBatch, number_tokens, pack, pad
from rlft_core.models.attention import AttentionKind, to_device
from rlft_core.models.policy import Policy
from rlft_core.models.reward_model import RewardModel

TOLERANCE = 2e-3


def why_not_packable(model: Policy | RewardModel, *, attention: AttentionKind, max_row_tokens: int) -> str | None:
    """None when packed rows give what the model computes for each text alone, else the reason in words."""
    window = getattr(model.inner.config, "sliding_window", None)
    if window and window < max_row_tokens and getattr(model.inner.config, "use_sliding_window", True):
        return f"its sliding window ({window}) is shorter than a row ({max_row_tokens})"
    embeddings = model.inner.get_input_embeddings().weight
    vocabulary, device = embeddings.shape[0], embeddings.device
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, vocabulary, size=11).tolist()
    completions = [rng.integers(0, vocabulary, size=length).tolist() for length in (5, 3, 6)]
    groups = number_tokens([(prompt, completions), (prompt[:4], completions[:2])])
    total = sum(len(c) for g in groups for c in g.completions)
    multiple = 128 if attention == "flex" else 1

    def values(micros: Sequence[MicroBatch]) -> Tensor:
        found = torch.empty(total)
        for micro in micros:
            rows = to_device(micro, device, attention)
            output = model(rows)
            found[rows.tokens.cpu()] = (output if isinstance(output, Tensor) else output.logprobs).float().cpu()
        return found

    with torch.no_grad():
        padded = values(pad(groups, max_tokens=256))
        try:
            packed = values(pack(groups, max_tokens=256, multiple=multiple))
        except (RuntimeError, ValueError) as error:
            return f"it takes no mask of queries and keys ({str(error).splitlines()[0]})"
    difference = float((packed - padded).abs().max())
    if not difference <= TOLERANCE:
        return f"packed rows change its results by {difference:.3g}, so some layer ignores the attention mask"
    return None
