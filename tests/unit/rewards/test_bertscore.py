"""BERTScore against numbers of its authors' package, and the matching on vectors that can be checked by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rlft_core.config.rewards import BertScoreConfig
from rlft_core.errors import ModelError, RewardError
from rlft_core.models.default_model import embedding_model_dir
from rlft_core.rewards.bertscore import BertScoreReward, TokenEncoder, TokenStates, bertscore
from rlft_core.rewards.build import build_rewards
from rlft_core.rewards.check import check_rewards
from rlft_core.rewards.protocol import Sample
from rlft_core.types import Row

# bert-score 0.3.13: score(texts, references, model_type=<folder of all-MiniLM-L6-v2>, num_layers=<layer>,
# use_fast_tokenizer=True, batch_size=1): (layer, text, reference, precision, recall, F1).
PUBLISHED = [
    (6, "RRD file daemon", "data caching daemon for RRDtool", 0.6487405, 0.5171161, 0.5754981),
    (6, "Simple, top-down maze game", "maze game", 0.6132510, 0.9477564, 0.7446634),
    (6, "x", "copy number variant detection", 0.1139414, 0.0499644, 0.0694669),
    (6, "game game game", "maze game", 0.6962621, 0.4517532, 0.5479694),
    (6, "Glimpse for Unix", "search quickly through entire file system", 0.3865367, 0.3274010, 0.3545197),
    (6, "Ünïcode café 数据库", "database", 0.0995353, 0.1561555, 0.1215764),
    (4, "RRD file daemon", "data caching daemon for RRDtool", 0.7054310, 0.5838392, 0.6389014),
    (4, "Simple, top-down maze game", "maze game", 0.5526241, 0.9439932, 0.6971366),
    (4, "x", "copy number variant detection", 0.1476298, 0.1014390, 0.1202513),
]


def states(vectors: list[list[float]], weights: list[float]) -> TokenStates:
    return TokenStates(np.array(vectors, dtype=np.float32), np.array(weights, dtype=np.float32))


def sample(text: str, *, output: str = "maze game") -> Sample:
    return Sample(Row("r1", "given", output), text, np.zeros(1), "stop")


def test_every_token_finds_its_nearest() -> None:
    text = states([[1, 0], [0, 1]], [1, 1])
    reference = states([[0.6, 0.8], [0.8, 0.6], [0, -1]], [1, 1, 1])
    precision, recall, f1 = bertscore(text, reference=reference)
    assert precision == pytest.approx(0.8, abs=1e-6)  # 0.8 and 0.8
    assert recall == pytest.approx((0.8 + 0.8 + 0.0) / 3, abs=1e-6)
    assert f1 == pytest.approx(2 * 0.8 * (1.6 / 3) / (0.8 + 1.6 / 3), abs=1e-6)


def test_a_token_without_weight_can_be_matched_but_has_no_score() -> None:
    text = states([[0.6, 0.8], [1, 0]], [0, 1])
    reference = states([[1, 0], [0, 1]], [0, 1])
    assert bertscore(text, reference=reference) == pytest.approx((1.0, 0.8, 1.6 / 1.8), abs=1e-6)
    assert bertscore(states([[1, 0]], [0]), reference=reference) == (0.0, 0.0, 0.0)
    assert bertscore(reference, reference=states([[1, 0]], [0])) == (0.0, 0.0, 0.0)


def test_opposite_vectors_have_no_f1() -> None:
    assert bertscore(states([[1, 0]], [1]), reference=states([[-1, 0]], [1])) == (-1.0, -1.0, 0.0)


def test_the_encoder_is_looked_for_before_a_run_starts(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere.*does not exist"):
        check_rewards([BertScoreConfig(model=str(tmp_path / "nowhere"))])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="has no weights"):
        check_rewards([BertScoreConfig(model=str(tmp_path))])


@pytest.fixture(scope="module")
def encoders() -> dict[int, TokenEncoder]:
    return {layer: TokenEncoder(embedding_model_dir(), layer=layer, cache_size=2) for layer in (6, 4)}


@pytest.mark.slow  # loads a real model
def test_the_published_package_gives_these_numbers(encoders: dict[int, TokenEncoder]) -> None:
    for layer in (6, 4):
        rows = [row for row in PUBLISHED if row[0] == layer]
        reward = BertScoreReward(BertScoreConfig(layer=layer), encoders[layer])
        found = reward([sample(text, output=reference) for _, text, reference, *_ in rows])
        for (_, text, _, precision, recall, f1), (value, details) in zip(rows, found, strict=True):
            assert value == pytest.approx(f1, abs=1e-4), text
            assert details == pytest.approx({"precision": precision, "recall": recall}, abs=1e-4), text


@pytest.mark.slow  # loads a real model
def test_the_default_is_the_last_layer_and_other_samples_change_nothing(encoders: dict[int, TokenEncoder]) -> None:
    [built] = build_rewards([BertScoreConfig()])
    assert isinstance(built.reward, BertScoreReward)
    assert check_rewards([BertScoreConfig()]) is None
    alone = BertScoreReward(BertScoreConfig(), encoders[6])([sample("RRD file daemon")])[0]
    among = built.reward([sample("word " * 300), sample("RRD file daemon"), sample("x")])[1]
    assert among[0] == pytest.approx(alone[0], abs=1e-5)


@pytest.mark.slow  # loads a real model
def test_equal_texts_are_at_one_blank_ones_at_zero(encoders: dict[int, TokenEncoder]) -> None:
    reward = BertScoreReward(BertScoreConfig(), encoders[6])
    same, blank = reward([sample(" maze game "), sample(" ")])
    assert same == (pytest.approx(1.0, abs=1e-5), pytest.approx({"precision": 1.0, "recall": 1.0}, abs=1e-5))
    assert blank == (0.0, {"precision": 0.0, "recall": 0.0})
    with pytest.raises(RewardError, match="row 'r1' has an empty output"):
        reward([sample("x", output="")])


@pytest.mark.slow  # loads a real model
def test_a_layer_or_a_length_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(ModelError, match=r"layer of the bertscore reward is 7, but .* has 6 layers"):
        TokenEncoder(embedding_model_dir(), layer=7)
    with pytest.raises(ModelError, match=r"max_tokens .* 513, .* takes 512 tokens"):
        TokenEncoder(embedding_model_dir(), max_tokens=513)
