"""Sentence embeddings, and the reward that compares texts by them.

An embedding is the mean of the last hidden states over the text's tokens, scaled to length 1 (Reimers and Gurevych
2019), so a dot product of two is their cosine. Computed in float32 without autocast: values must not depend on which
texts happen to share a batch. No gradient, no fine-tuning.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from rlft_core.config.rewards import EmbeddingSimilarityConfig
from rlft_core.errors import ModelError
from rlft_core.models.default_model import DEFAULT_MODEL, embedding_model_dir, resolve_model
from rlft_core.rewards.protocol import Sample, reference_of


class Embedder:
    """A frozen sentence encoder with a cache of the texts that come again.

    Not safe for several threads at once: give each its own.
    """

    def __init__(
        self, model: Path | str, *, max_tokens: int = 256, batch_size: int = 32, cache_size: int = 20_000
    ) -> None:
        """Load the encoder.

        Args:
            model: folder or hub id, as `embedding_model` gives it.
            max_tokens: longer texts are cut here.
            batch_size: texts of one forward pass.
            cache_size: embeddings kept, the longest unused go first.

        Raises:
            ModelError: the model or its tokenizer cannot be loaded, or it takes fewer than `max_tokens`.
        """
        self._tokenizer, self._model = load_encoder(model, max_tokens=max_tokens)
        self._max_tokens = max_tokens
        self._batch_size = batch_size
        self._cache_size = cache_size
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()

    def embed(self, texts: Sequence[str], *, cached: bool = False) -> np.ndarray:
        """Unit vectors [N, D] float32, one for each text. With `cached`, keep them for the next call.

        Equal texts are computed once. The same text has the same embedding to 1e-5 whatever else is in `texts`.
        """
        known = self._cache if cached else OrderedDict[str, np.ndarray]()
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        fresh = dict(zip(missing, self._forward(missing), strict=True))
        vectors = [fresh[text] if text in fresh else known[text] for text in texts]
        if cached:
            self._remember(texts, fresh)
        return np.stack(vectors) if vectors else np.zeros((0, self._model.config.hidden_size), dtype=np.float32)

    def similarity(self, texts: Sequence[str], others: Sequence[str]) -> list[float]:
        """Cosine of texts[i] and others[i], in [-1, 1]; 0 where one of them is blank. `others` are cached.

        Raises:
            ValueError: the two have different lengths.
        """
        if len(texts) != len(others):
            raise ValueError(f"{len(texts)} texts cannot be compared with {len(others)}")
        left, right = self.embed(texts), self.embed(others, cached=True)
        cosines = np.einsum("nd,nd->n", left.astype(np.float64), right.astype(np.float64)).clip(-1.0, 1.0)
        # A blank text still has an embedding, of the tokens around it; it would look a little like everything.
        return [
            float(cosine) if text.strip() and other.strip() else 0.0
            for cosine, text, other in zip(cosines, texts, others, strict=True)
        ]

    @torch.inference_mode()
    def _forward(self, texts: Sequence[str]) -> list[np.ndarray]:
        if not texts:
            return []
        encoded = self._tokenizer(list(texts), truncation=True, max_length=self._max_tokens)["input_ids"]
        by_length = sorted(range(len(texts)), key=lambda index: len(encoded[index]))
        vectors: dict[int, np.ndarray] = {}
        for start in range(0, len(by_length), self._batch_size):
            chosen = by_length[start : start + self._batch_size]
            vectors |= zip(chosen, self._encode([encoded[index] for index in chosen]), strict=True)
        return [vectors[index] for index in range(len(texts))]

    def _encode(self, batch: Sequence[Sequence[int]]) -> np.ndarray:
        """Token ids of N texts to unit vectors [N, D]."""
        token_ids, mask = padded(batch)
        lengths = mask.sum(dim=1)
        hidden = self._model(input_ids=token_ids, attention_mask=mask.long()).last_hidden_state  # [N, L, D]
        summed = hidden.masked_fill(~mask[..., None], 0.0).sum(dim=1)
        vectors: np.ndarray = torch.nn.functional.normalize(summed / lengths[:, None], dim=-1).numpy()
        return vectors

    def _remember(self, texts: Sequence[str], fresh: dict[str, np.ndarray]) -> None:
        self._cache.update(fresh)
        for text in texts:
            self._cache.move_to_end(text)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)


def load_encoder(model: Path | str, *, max_tokens: int) -> tuple[Any, Any]:
    """Tokenizer and frozen encoder of a folder or hub id, in float32 (safetensors only, no code of the model's own).

    Raises:
        ModelError: the model or its tokenizer cannot be loaded, or it takes fewer than `max_tokens`.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        encoder = AutoModel.from_pretrained(model, dtype=torch.float32, use_safetensors=True).eval()
    except (OSError, ValueError) as error:
        raise ModelError(f"The embedding model '{model}' cannot be loaded: {error}") from error
    positions = tokenizer.model_max_length  # a huge number for tokenizers that do not say
    if max_tokens > positions:
        raise ModelError(
            f"max_tokens is {max_tokens}, but '{model}' takes {positions} tokens. Set it to {positions} or less."
        )
    return tokenizer, encoder


def padded(batch: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of N texts as one tensor [N, L], and a mask [N, L], true where a token is."""
    lengths = torch.tensor([len(ids) for ids in batch])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    token_ids = torch.zeros(mask.shape, dtype=torch.long)
    token_ids[mask] = torch.tensor([token for ids in batch for token in ids])
    return token_ids, mask


def embedding_model(name: str) -> Path | str:
    """What `Embedder` loads for a recipe's `model`: the bundled encoder for `default`, else a folder or hub id.

    Raises:
        ModelError: the package or the folder is missing or unsafe.
    """
    return embedding_model_dir() if name == DEFAULT_MODEL else resolve_model(name)


@lru_cache(maxsize=4)
def shared_embedder(name: str, max_tokens: int = 256) -> Embedder:
    """One embedder per model and process, so that several rewards share weights and cache."""
    return Embedder(embedding_model(name), max_tokens=max_tokens)


@dataclass(frozen=True, slots=True)
class EmbeddingSimilarityReward:
    """Cosine of the text with the row's output or input. A blank text has 0."""

    config: EmbeddingSimilarityConfig
    embedder: Embedder

    @classmethod
    def from_config(cls, config: EmbeddingSimilarityConfig) -> EmbeddingSimilarityReward:
        """The reward, with the process's shared embedder. ModelError when it cannot be loaded."""
        return cls(config, shared_embedder(config.model, config.max_tokens))

    @property
    def name(self) -> str:
        return self.config.label

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        against_input = self.config.against == "input"
        others = [sample.row.input if against_input else reference_of(sample) for sample in samples]
        return self.embedder.similarity([sample.text.strip() for sample in samples], others)
