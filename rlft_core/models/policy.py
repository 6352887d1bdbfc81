"""A causal language model as the learner needs it: rows in, log-probs of the chosen tokens out.

One `nn.Module` around the transformer and its output layer, so that sharding (FSDP) sees a single forward pass. Logits
are never formed as a whole. What a model computes for the engine must not change here: no dropout, no cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlft_core.logprobs import token_logprobs
from rlft_core.models.attention import DeviceRows


@dataclass(frozen=True, slots=True)
class PolicyOutput:
    """`logprobs`, `entropy` [T] float32 of the micro-batch's targets; `hidden` [T, H] the states they came from."""

    logprobs: Tensor
    entropy: Tensor
    hidden: Tensor


class Policy(nn.Module):
    """`lm` is a Hugging Face causal LM, possibly with adapters."""

    def __init__(self, lm: nn.Module) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, rows: DeviceRows, *, temperature: float = 1.0, entropy_grad: bool = False) -> PolicyOutput:
        hidden = hidden_states(self.backbone, rows)
        head = self.output_layer
        result = token_logprobs(
            hidden, head.weight, rows.targets, temperature=temperature, bias=head.bias, entropy_grad=entropy_grad
        )
        assert result.entropy is not None
        return PolicyOutput(result.logprobs, result.entropy, hidden)

    @property
    def inner(self) -> Any:
        """The causal LM itself, with its adapters in place but without peft's wrapper."""
        lm: Any = self.lm
        return lm.get_base_model() if self.has_adapter else lm

    @property
    def has_adapter(self) -> bool:
        from peft import PeftModel

        return isinstance(self.lm, PeftModel)

    @property
    def backbone(self) -> nn.Module:
        """The transformer without its output layer."""
        module: nn.Module = self.inner.get_decoder()
        return module

    @property
    def output_layer(self) -> nn.Linear:
        layer = self.inner.get_output_embeddings()
        assert isinstance(layer, nn.Linear), type(layer)
        return layer

    @property
    def hidden_size(self) -> int:
        return int(self.output_layer.weight.shape[1])


def hidden_states(backbone: nn.Module, rows: DeviceRows) -> Tensor:
    """[T, H] last hidden states at the positions that predict the targets."""
    states = backbone(
        input_ids=rows.input_ids, attention_mask=rows.mask, position_ids=rows.position_ids, use_cache=False
    ).last_hidden_state
    selected: Tensor = states[rows.predict_row, rows.predict_col]
    return selected


class Critic(nn.Module):
    """A transformer of its own with a scalar head: the value of every completion token's state."""

    def __init__(self, backbone: nn.Module, hidden_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.head = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, rows: DeviceRows) -> Tensor:
        """[T] float32 values of the states in which the targets were chosen."""
        hidden = hidden_states(self.backbone, rows)
        with torch.autocast(hidden.device.type, enabled=False):
            values: Tensor = self.head(self.norm(hidden.float())).squeeze(-1)
        return values
