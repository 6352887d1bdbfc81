"""Models from folders, ready for the learner: precision, frozen layers, adapters, gradient checkpointing.

Weights come from safetensors only; pickle is never loaded. What is trained is held in float32; matrix products run in
bfloat16 under autocast. A frozen copy keeps its matrices in bfloat16 already: autocast would round them to the same
numbers at every use, so nothing changes but memory and time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from rlft_core.config.model import FreezeConfig, LoraConfig
from rlft_core.errors import ConfigError, ModelError
from rlft_core.models.attention import AttentionKind
from rlft_core.models.dense import DENSE_ATTENTION
from rlft_core.models.flex import FLEX_ATTENTION
from rlft_core.models.policy import Policy
from rlft_core.models.reward_model import RewardFacts, RewardModel, load_classifier


def load_tokenizer(source: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model. Raises ModelError when there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ModelError(f"{source} has no usable tokenizer: {_first_line(error)}") from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def load_lm(
    source: str | Path, *, attention: AttentionKind, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False
) -> Any:
    """A causal LM in evaluation mode. Raises ModelError when the folder holds none.

    An architecture without the wanted attention (a state-space model has none at all) is loaded with its own.
    """

    def load(**wanted: str) -> Any:
        return AutoModelForCausalLM.from_pretrained(
            str(source), dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code, **wanted
        )

    try:
        try:
            model = load(attn_implementation=FLEX_ATTENTION if attention == "flex" else DENSE_ATTENTION)
        except ValueError as error:
            if "attention implementation" not in str(error):
                raise
            model = load()
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise ModelError(f"{source} could not be loaded as a causal language model: {_first_line(error)}") from error
    return model.eval()


def trainable_policy(
    source: str | Path,
    *,
    attention: AttentionKind,
    freeze: FreezeConfig,
    lora: LoraConfig | None,
    gradient_checkpointing: bool,
    trust_remote_code: bool = False,
    seed: int = 0,
) -> Policy:
    """The model to tune, in float32, with `requires_grad` only where it is trained.

    No dropout of the model's own: it would make log-probs differ from the engine's. An adapter's, if the recipe asks for it, acts
    only where gradients are computed.
    """
    lm = load_lm(source, attention=attention, trust_remote_code=trust_remote_code)
    if gradient_checkpointing:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
        lm.train()
        _without_dropout(lm)
    if lora is not None:
        lm = _with_adapter(lm, lora, seed=seed)
    else:
        freeze_layers(lm, freeze)
    return Policy(lm)


def frozen_policy(
    source: str | Path, *, attention: AttentionKind, compute: torch.dtype, trust_remote_code: bool = False
) -> Policy:
    """A reference: never trained, its matrices already in the `compute` precision."""
    lm = load_lm(source, attention=attention, trust_remote_code=trust_remote_code)
    lm.requires_grad_(False)
    round_matrices(lm, compute)
    return Policy(lm)


def round_matrices(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold frozen linear layers in `dtype`, except an output layer that shares the embedding's weight."""
    tied = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for module in model.modules():
        if isinstance(module, nn.Linear) and id(module.weight) not in tied and not module.weight.requires_grad:
            module.to(dtype)


def trainable_reward_model(
    source: str | Path,
    *,
    attention: AttentionKind,
    freeze: FreezeConfig,
    gradient_checkpointing: bool,
    trust_remote_code: bool = False,
    seed: int = 0,
) -> RewardModel:
    """A language model's backbone with a new head, in float32, with `requires_grad` only where it is trained."""
    classifier = load_classifier(source, attention=attention, seed=seed, trust_remote_code=trust_remote_code)
    if gradient_checkpointing:
        classifier.gradient_checkpointing_enable({"use_reentrant": False})
        classifier.train()
        _without_dropout(classifier)
    freeze_layers(classifier, freeze)
    return RewardModel(classifier)


def critic_from_reward_model(
    source: str | Path, policy: Policy, *, attention: AttentionKind, weight: float, trust_remote_code: bool = False
) -> RewardModel:
    """A critic whose value of a text starts as `weight` times the reward model's. Raises ModelError for another vocabulary."""
    facts = RewardFacts.read(source)
    classifier = load_classifier(source, attention=attention, trust_remote_code=trust_remote_code)
    words, expected = classifier.get_input_embeddings().weight.shape[0], policy.output_layer.weight.shape[0]
    if words != expected:
        raise ModelError(
            f"advantage.critic.start_from: the reward model in {source} has {words} tokens and the policy {expected}; a critic "
            "reads the policy's tokens, so both must have the same tokenizer"
        )
    return RewardModel(classifier, mean=facts.mean, std=facts.std, weight=weight)


def freeze_layers(lm: Any, freeze: FreezeConfig) -> None:
    """Switch off gradients as the recipe says. Raises ConfigError when the model has fewer layers."""
    layers = lm.get_decoder().layers
    if freeze.bottom_layers > len(layers):
        raise ConfigError(
            f"learner.freeze.bottom_layers is {freeze.bottom_layers}, but the model has {len(layers)} layers; "
            f"use at most {len(layers)}"
        )
    if freeze.embeddings:
        lm.get_input_embeddings().requires_grad_(False)
    for layer in layers[: freeze.bottom_layers]:
        layer.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in lm.parameters()):
        raise ConfigError("learner.freeze leaves nothing to train; freeze fewer layers")


def _with_adapter(lm: Any, lora: LoraConfig, *, seed: int) -> Any:
    from peft import LoraConfig as PeftLora
    from peft import get_peft_model
    from peft.tuners.lora import LoraLayer

    modules = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    torch.manual_seed(seed)  # every rank must draw the same starting adapter
    config = PeftLora(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=modules,
        task_type="CAUSAL_LM",
    )
    try:
        adapted = get_peft_model(lm, config)
    except ValueError as error:
        raise ConfigError(
            f"model.lora.target_modules {modules!r} fits no layer of the model: {_first_line(error)}"
        ) from error
    if not isinstance(adapted.get_base_model().get_output_embeddings(), nn.Linear):
        raise ConfigError(
            f"model.lora.target_modules {modules!r} includes the output layer, which rlft computes in blocks and cannot adapt; "
            "leave it out"
        )
    for layer in (module for module in adapted.modules() if lora.dropout and isinstance(module, LoraLayer)):
        layer.lora_dropout.update({name: _LearningDropout(lora.dropout) for name in layer.lora_dropout})
    return adapted


class _LearningDropout(nn.Dropout):
    """Drops only where a gradient is computed: what a pass without one measures is what the engines compute."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.dropout(input, self.p, training=torch.is_grad_enabled())


def _without_dropout(model: nn.Module) -> None:
    """Training mode switches gradient checkpointing on, and dropout with it, which must stay off."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
