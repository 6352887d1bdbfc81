"""The sentence embedder against a plain loop over tokens, and the reward made of it.

The real model is 90 MB and loads in a second; it is loaded once.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from rlft_core.config.rewards import EmbeddingSimilarityConfig, RepetitionConfig
from rlft_core.errors import ModelError, RewardError
from rlft_core.models.default_model import embedding_model_dir
from rlft_core.rewards.build import build_rewards
from rlft_core.rewards.embedding import Embedder, EmbeddingSimilarityReward, shared_embedder
from rlft_core.rewards.protocol import Sample
from rlft_core.types import Row

pytestmark = pytest.mark.slow  # loads a real model

TEXTS = ["RRD file daemon", "Simple, top-down maze game in which mazes are randomly generated", "x", "DNA sequencing"]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(embedding_model_dir(), cache_size=3)


def sample(text: str, *, output: str = "Daemon that writes RRD files", given: str = "A daemon.") -> Sample:
    return Sample(Row("r1", given, output), text, np.zeros(1), "stop")


def reference_embedding(text: str) -> list[float]:
    """One text alone, mean over its tokens and length 1, in plain loops of float64."""
    tokenizer = AutoTokenizer.from_pretrained(embedding_model_dir())
    model = AutoModel.from_pretrained(embedding_model_dir()).eval()
    with torch.no_grad():
        states = model(**tokenizer([text], return_tensors="pt")).last_hidden_state[0].double().tolist()
    mean = [sum(column) / len(states) for column in zip(*states, strict=True)]
    norm = sum(x * x for x in mean) ** 0.5
    return [x / norm for x in mean]


def test_an_embedding_is_the_normalised_mean_of_its_tokens(embedder: Embedder) -> None:
    found = embedder.embed(TEXTS)
    assert found.shape == (4, 384)
    assert found.dtype == np.float32
    for index in (0, 1):
        np.testing.assert_allclose(found[index], reference_embedding(TEXTS[index]), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)


def test_other_texts_of_the_batch_change_nothing(embedder: Embedder) -> None:
    together = embedder.embed([*TEXTS, " ".join(TEXTS * 20), *reversed(TEXTS)])
    for index, text in enumerate(TEXTS):
        np.testing.assert_allclose(together[index], embedder.embed([text])[0], atol=1e-5)
        np.testing.assert_array_equal(together[index], together[8 - index])


def test_no_texts_are_no_vectors(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, 384)


def test_the_cache_keeps_what_was_used_last(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Embedder(embedding_model_dir(), cache_size=2)
    computed: list[str] = []
    forward = embedder._forward

    def recording(texts: list[str]) -> list[np.ndarray]:
        computed.extend(texts)
        return forward(texts)

    monkeypatch.setattr(embedder, "_forward", recording)
    first = embedder.embed(["a", "b"], cached=True)
    np.testing.assert_array_equal(embedder.embed(["a"], cached=True)[0], first[0])
    embedder.embed(["c"], cached=True)  # "b" is the longest unused
    embedder.embed(["a", "c"], cached=True)
    assert computed == ["a", "b", "c"]
    embedder.embed(["b"], cached=True)
    assert computed == ["a", "b", "c", "b"]
    embedder.embed(["b", "b"])  # not cached: computed again, but once
    assert computed == ["a", "b", "c", "b", "b"]


def test_more_texts_than_the_cache_holds(embedder: Embedder) -> None:
    np.testing.assert_allclose(embedder.embed(TEXTS, cached=True), embedder.embed(TEXTS), atol=1e-5)


def test_similar_texts_are_closer_and_blank_ones_are_at_zero(embedder: Embedder) -> None:
    same, near, far, blank = embedder.similarity(
        ["RRD file daemon", "Daemon that writes RRD files", "randomly generated mazes", "  "], ["RRD file daemon"] * 4
    )
    assert same == pytest.approx(1.0, abs=1e-6)
    assert 0.8 < near < 1.0
    assert far < 0.3
    assert blank == 0.0
    with pytest.raises(ValueError, match="2 texts cannot be compared with 1"):
        embedder.similarity(["a", "b"], ["a"])


def test_the_reward_compares_with_reference_or_input(embedder: Embedder) -> None:
    text = sample("RRD file daemon")
    [reference] = EmbeddingSimilarityReward(EmbeddingSimilarityConfig(), embedder)([text])
    [given] = EmbeddingSimilarityReward(EmbeddingSimilarityConfig(against="input"), embedder)([text])
    left, right, source = (embedder.embed([t])[0] for t in (text.text, text.row.output, text.row.input))
    assert reference == pytest.approx(sum(float(a) * float(b) for a, b in zip(left, right, strict=True)), abs=1e-5)
    assert given == pytest.approx(sum(float(a) * float(b) for a, b in zip(left, source, strict=True)), abs=1e-5)


def test_a_blank_reference_is_an_error_and_a_blank_text_is_not(embedder: Embedder) -> None:
    reward = EmbeddingSimilarityReward(EmbeddingSimilarityConfig(), embedder)
    assert reward([sample(" ")]) == [0.0]
    with pytest.raises(RewardError, match="row 'r1' has an empty output"):
        reward([sample("x", output="")])


def test_rewards_of_one_model_share_it() -> None:
    built = build_rewards(
        [
            EmbeddingSimilarityConfig(),
            RepetitionConfig(weight=0.3),
            EmbeddingSimilarityConfig(against="input", name="in"),
        ]
    )
    assert [weighted.reward.name for weighted in built] == ["embedding_similarity", "repetition", "in"]
    assert [weighted.weight for weighted in built] == [1.0, 0.3, 1.0]
    similarities = [w.reward for w in built if isinstance(w.reward, EmbeddingSimilarityReward)]
    assert similarities[0].embedder is similarities[1].embedder is shared_embedder("default", 256)


def test_a_length_that_the_model_cannot_take_is_refused() -> None:
    with pytest.raises(ModelError, match=r"max_tokens .* 513, .* takes 512 tokens"):
        Embedder(embedding_model_dir(), max_tokens=513)
