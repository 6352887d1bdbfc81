"""A causal language model's backbone with a scalar head: how good a text is, read off at its last token or at every one.

Held in Hugging Face's own class for sequence classification with one label, so that a saved folder is one that
`AutoModelForSequenceClassification` loads. Beside its weights stands `rlft_reward.json`: how prompts were written, and
the shift and scale that make the score of a good text 0 with spread 1.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from rlft_core.config.rewards import REWARD_FACTS
from rlft_core.errors import ModelError
from rlft_core.models.attention import AttentionKind, DeviceRows
from rlft_core.models.dense import DENSE_ATTENTION
from rlft_core.models.flex import FLEX_ATTENTION
from rlft_core.models.policy import hidden_states

END = 0
"""The token put after a text so that its last real token "predicts" something, and is read there. Any id would do: no
position attends to it, and its own state is not used."""


@dataclass(frozen=True, slots=True)
class RewardFacts:
    """How a reward model's inputs are written, and `reward = (score - mean) / std`.

    `system`, `template` and `chat` are those of `rlft_core.data.encode.encode_prompt`; `max_length` in tokens. `level`:
    one reward for a text, read at its last token, or one for every token. `squash`: the score is tanh(output / 2).
    """

    mean: float = 0.0
    std: float = 1.0
    system: str | None = None
    template: str = "{input}"
    chat: bool = True
    max_length: int = 512
    level: Literal["sequence", "token"] = "sequence"
    squash: bool = False

    def write(self, folder: Path) -> None:
        """Put it beside the weights."""
        (folder / REWARD_FACTS).write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False), encoding="utf-8")

    @staticmethod
    def read(folder: Path | str) -> RewardFacts:
        """Inverse of `write`. Raises ModelError when the folder is no reward model of rlft's."""
        try:
            return RewardFacts(**json.loads(Path(folder, REWARD_FACTS).read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError) as error:
            raise ModelError(
                f"{folder} is no reward model that rlft has trained: it has no readable {REWARD_FACTS}. Give the folder `model` "
                "of a stage of type reward_model"
            ) from error


class RewardModel(nn.Module):
    """`classifier` has one label. Serves as a reward, and as a critic whose value starts as `weight` times the reward."""

    def __init__(
        self, classifier: nn.Module, *, mean: float = 0.0, std: float = 1.0, weight: float = 1.0, squash: bool = False
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self._mean = mean
        self._scale = weight / std
        self._squash = squash

    def forward(self, rows: DeviceRows) -> Tensor:
        """[T] float32 rewards of the text up to the position that predicts each target."""
        hidden = hidden_states(self.backbone, rows)
        with torch.autocast(hidden.device.type, enabled=False):
            scores: Tensor = self.head(hidden.float()).squeeze(-1)
        if self._squash:
            scores = torch.tanh(scores / 2.0)
        return (scores - self._mean) * self._scale

    @property
    def inner(self) -> Any:
        """The classifier itself."""
        return self.classifier

    @property
    def backbone(self) -> nn.Module:
        """The transformer without its head."""
        module: nn.Module = self.inner.get_decoder()
        return module

    @property
    def head(self) -> nn.Linear:
        """[1, H], without a bias."""
        layer = self.inner.score
        assert isinstance(layer, nn.Linear)
        return layer


def load_classifier(
    source: str | Path,
    *,
    attention: AttentionKind,
    dtype: torch.dtype = torch.float32,
    seed: int | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """A classifier with one label, in evaluation mode. Raises ModelError when the model has no such form.

    With a `seed` the head is drawn anew, as for a model that has none yet: every rank must draw the same.
    """
    wanted = FLEX_ATTENTION if attention == "flex" else DENSE_ATTENTION

    def load(**options: str) -> Any:
        return AutoModelForSequenceClassification.from_pretrained(
            str(source), num_labels=1, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code, **options
        )

    try:
        try:
            classifier = load(attn_implementation=wanted)
        except ValueError as error:
            if "attention implementation" not in str(error):
                raise
            classifier = load()
    except (OSError, ValueError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(f"{source} could not be loaded as a reward model: {first}") from error
    if not isinstance(getattr(classifier, "score", None), nn.Linear):
        raise ModelError(
            f"{source}: {type(classifier).__name__} has no linear layer `score`, so it cannot serve as a reward model; take "
            "a decoder such as Llama, Qwen, Mistral or Gemma"
        )
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        width = classifier.score.weight.shape[1]
        drawn = torch.randn(1, width, generator=generator) / width
        with torch.no_grad():
            classifier.score.weight.copy_(drawn.to(classifier.score.weight))
    return classifier.eval()


def with_padding(tokenizer: PreTrainedTokenizerBase, classifier: Any) -> PreTrainedTokenizerBase:
    """Give both a padding token that is not the EOS: transformers reads the score at the last token that is no padding.

    Returns the tokenizer, changed in place. Raises ModelError when it has no other token to spare.
    """
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        special = [tokenizer.convert_ids_to_tokens(i) for i in sorted(tokenizer.all_special_ids)]
        added = [str(token) for _, token in sorted(tokenizer.added_tokens_decoder.items())]
        spare = [token for token in (*special, *added) if token not in (tokenizer.eos_token, None)]
        if not spare:
            raise ModelError(
                f"The tokenizer of {tokenizer.name_or_path} has no special token beside its EOS that could pad; set its "
                "pad_token to another token"
            )
        tokenizer.pad_token = spare[0]
    classifier.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer
