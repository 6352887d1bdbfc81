"""BERTScore (Zhang et al. 2020): texts compared token by token, through the states of an encoder's hidden layer.

As the authors' package `bert-score` computes it with idf=False and without rescaling; that package is not needed.
Computed in float32 without autocast, as in `rlft_core.rewards.embedding`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from rlft_core.config.rewards import BertScoreConfig
from rlft_core.errors import ModelError
from rlft_core.rewards.embedding import embedding_model, load_encoder, padded
from rlft_core.rewards.protocol import Sample, reference_of


@dataclass(frozen=True, slots=True)
class TokenStates:
    """A text as its tokens' states: unit vectors [T, D] float32, and weights [T], 0 for [CLS] and [SEP], else 1."""

    vectors: np.ndarray
    weights: np.ndarray


def bertscore(text: TokenStates, *, reference: TokenStates) -> tuple[float, float, float]:
    """(precision, recall, F1), each at most 1: greedy matching by cosine.

    P = sum_i w_i max_j x_i . y_j / sum_i w_i over the text's tokens x_i, R likewise over the reference's tokens y_j,
    F1 = 2PR / (P + R). As in the authors' package, [CLS] and [SEP] have no score of their own (w = 0), but another
    token may match them. A side without any other token makes all three 0.
    """
    own, other = float(text.weights.sum()), float(reference.weights.sum())
    if own == 0.0 or other == 0.0:
        return 0.0, 0.0, 0.0
    cosines = text.vectors @ reference.vectors.T  # [T, U]
    precision = float(cosines.max(axis=1) @ text.weights) / own
    recall = float(cosines.max(axis=0) @ reference.weights) / other
    total = precision + recall
    return precision, recall, 2.0 * precision * recall / total if total > 0.0 else 0.0


class TokenEncoder:
    """A frozen encoder that gives token states of one hidden layer, with a cache of the texts that come again.

    Not safe for several threads at once: give each its own.
    """

    def __init__(
        self,
        model: Path | str,
        *,
        layer: int | None = None,
        max_tokens: int = 256,
        batch_size: int = 32,
        cache_size: int = 4_000,
    ) -> None:
        """Load the encoder.

        Args:
            model: folder or hub id, as `rlft_core.rewards.embedding.embedding_model` gives it.
            layer: hidden layer, from 1; the last without one.
            max_tokens: longer texts are cut here, [CLS] and [SEP] counted.
            batch_size: texts of one forward pass.
            cache_size: texts kept, the longest unused go first; each takes 4 bytes x tokens x hidden size.

        Raises:
            ModelError: the model cannot be loaded, takes fewer than `max_tokens`, or has fewer layers.
        """
        self._tokenizer, self._model = load_encoder(model, max_tokens=max_tokens)
        num_layers = int(self._model.config.num_hidden_layers)
        if layer is not None and layer > num_layers:
            raise ModelError(
                f"layer of the bertscore reward is {layer}, but '{model}' has {num_layers} layers. "
                f"Set it to {num_layers} or less."
            )
        self._layer = num_layers if layer is None else layer
        self._unweighted = [self._tokenizer.cls_token_id, self._tokenizer.sep_token_id]
        self._max_tokens = max_tokens
        self._batch_size = batch_size
        self._cache_size = cache_size
        self._cache: OrderedDict[str, TokenStates] = OrderedDict()

    def encode(self, texts: Sequence[str], *, cached: bool = False) -> list[TokenStates]:
        """Each text's token states. With `cached`, keep them for the next call. Equal texts are computed once."""
        known = self._cache if cached else OrderedDict[str, TokenStates]()
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        fresh = self._forward(missing)
        states = [fresh[text] if text in fresh else known[text] for text in texts]
        if cached:
            self._cache.update(fresh)
            for text in texts:
                self._cache.move_to_end(text)
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        return states

    @torch.inference_mode()
    def _forward(self, texts: Sequence[str]) -> dict[str, TokenStates]:
        if not texts:
            return {}
        encoded = self._tokenizer(list(texts), truncation=True, max_length=self._max_tokens)["input_ids"]
        pairs = sorted(zip(texts, encoded, strict=True), key=lambda pair: len(pair[1]))
        found: dict[str, TokenStates] = {}
        for start in range(0, len(pairs), self._batch_size):
            batch = pairs[start : start + self._batch_size]
            token_ids, mask = padded([ids for _, ids in batch])
            out = self._model(input_ids=token_ids, attention_mask=mask.long(), output_hidden_states=True)
            states = torch.nn.functional.normalize(out.hidden_states[self._layer], dim=-1)  # [N, L, D]
            for (text, ids), rows in zip(batch, states, strict=True):
                weights = 1.0 - np.isin(ids, [token for token in self._unweighted if token is not None])
                # A copy: a slice would keep the whole batch in the cache.
                found[text] = TokenStates(rows[: len(ids)].numpy().copy(), weights.astype(np.float32))
        return found


@lru_cache(maxsize=4)
def shared_token_encoder(name: str, layer: int | None = None, max_tokens: int = 256) -> TokenEncoder:
    """One encoder per model, layer and process, so that several rewards share weights and cache."""
    return TokenEncoder(embedding_model(name), layer=layer, max_tokens=max_tokens)


@dataclass(frozen=True, slots=True)
class BertScoreReward:
    """F1 of the text against the row's output; a blank text has 0. Breakdown: `precision`, `recall`."""

    config: BertScoreConfig
    encoder: TokenEncoder

    @classmethod
    def from_config(cls, config: BertScoreConfig) -> BertScoreReward:
        """The reward, with the process's shared encoder. ModelError when it cannot be loaded."""
        return cls(config, shared_token_encoder(config.model, config.layer, config.max_tokens))

    @property
    def name(self) -> str:
        return self.config.label

    def __call__(self, samples: Sequence[Sample]) -> list[tuple[float, dict[str, float]]]:
        texts = self.encoder.encode([sample.text.strip() for sample in samples])
        references = self.encoder.encode([reference_of(sample).strip() for sample in samples], cached=True)
        values = []
        for text, reference in zip(texts, references, strict=True):
            precision, recall, f1 = bertscore(text, reference=reference)
            values.append((f1, {"precision": precision, "recall": recall}))
        return values
