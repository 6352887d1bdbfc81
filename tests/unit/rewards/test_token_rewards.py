"""Rewards of single tokens: where they stand in a score, from places in a text, and from a model of tokens."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlft_core.config.rewards import CustomConfig, RewardModelConfig
from rlft_core.data import encode_prompt
from rlft_core.errors import ConfigError, RewardError
from rlft_core.models.loading import load_tokenizer
from rlft_core.models.reward_model import RewardFacts, load_classifier, with_padding
from rlft_core.rewards.protocol import Sample, TokenRewards, WeightedReward
from rlft_core.rewards.reward_model import RewardModelReward, smoothed, steps_of_mean
from rlft_core.rewards.scoring import breakdowns, score_group
from rlft_core.rewards.spans import SpanReward, checked_spans, shared, token_ends
from rlft_core.types import Row
from tests.unit.rewards.test_scoring import Scripted, group

# ---------------------------------------------------------------- in a score


def dense(values: list[float], value: float = 0.5) -> TokenRewards:
    return TokenRewards(value, np.array(values, np.float32))


def test_every_token_gets_its_own_and_a_sequence_score_comes_to_the_last() -> None:
    rewards = [
        WeightedReward(Scripted("tokens", lambda _: dense([1.0, -2.0, 0.5])), 0.5),
        WeightedReward(Scripted("whole", float), 2.0),
    ]
    (score,) = score_group(group("3"), rewards).scores
    assert score.per_token.tolist() == [0.5, -1.0, 6.25]
    assert score.breakdown == {"tokens": 0.5, "whole": 3.0}
    assert score.total == pytest.approx(5.75)
    assert {name: values.tolist() for name, values in score.dense.items()} == {"tokens": [1.0, -2.0, 0.5]}


@pytest.mark.parametrize("found", [dense([1.0, 2.0]), TokenRewards(1.0, None)])
def test_rewards_of_other_tokens_than_the_samples_are_refused(found: TokenRewards) -> None:
    rewards = [WeightedReward(Scripted("model", lambda _: found), 1.0)]
    with pytest.raises(RewardError, match=r"reward 'model'.*each of the 3 tokens earns.*the policy's own tokenizer"):
        score_group(group("a"), rewards)
    (skipped,) = score_group(group("a"), rewards, skip_budget=1).scores
    assert skipped.skipped == "model"
    # Where only the value counts, as in an evaluation, it is enough.
    assert breakdowns(Scripted("model", lambda _: found), [sample("a", [1])]) == [{"model": found.value}]


def test_a_token_without_a_finite_reward_is_named() -> None:
    reward = WeightedReward(Scripted("model", lambda _: dense([0.0, float("nan"), 0.0])), 1.0)
    with pytest.raises(RewardError, match="gave token 1 the reward nan"):
        score_group(group("a"), [reward])


# ---------------------------------------------------------------- places in a text


def sample(text: str, ids: list[int], *, ended: bool = True) -> Sample:
    row = Row("row-1", "reads files", "a tool", {"input": "reads files"})
    return Sample(row, text, np.array(ids, np.int32), "stop" if ended else "length")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from rlft_core.models.tiny import make_tiny_model

    return load_tokenizer(make_tiny_model(tmp_path_factory.mktemp("t") / "m"))


@given(st.text(alphabet="ab é日🙂\n  ", max_size=12))
@settings(max_examples=60, deadline=None)
def test_token_ends_follow_the_text(tokenizer: Any, text: str) -> None:
    ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    ends = token_ends(tokenizer, ids)
    said = tokenizer.decode(ids, skip_special_tokens=True)
    assert ends == sorted(ends)
    assert ends[-1] == len(said)
    assert len(ends) == len(ids)
    for index in range(len(ids)):
        if not tokenizer.decode(ids[: index + 1], skip_special_tokens=True).endswith("\ufffd"):
            assert ends[index] == len(tokenizer.decode(ids[: index + 1], skip_special_tokens=True))


def test_a_span_is_shared_by_the_tokens_it_touches() -> None:
    ends = [3, 3, 8, 10]  # the second token ends inside a character and has no text of its own
    assert shared([(0, 3, 1.0)], ends).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert shared([(2, 9, 3.0)], ends).tolist() == [1.0, 0.0, 1.0, 1.0]
    assert shared([(0, 1, 1.0), (4, 5, -2.0)], ends).tolist() == [1.0, 0.0, -2.0, 0.0]
    assert shared([], ends).sum() == 0.0


@pytest.mark.parametrize(
    "found, told",
    [
        (3.0, "returned float 3.0, not a list"),
        ([(1, 2)], r"the span \(1, 2\), which is no \(start, end, value\)"),
        ([(2, 2, 1.0)], "but the text has 4 characters"),
        ([(0, 5, 1.0)], "but the text has 4 characters"),
        ([(-1, 2, 1.0)], "but the text has 4 characters"),
        ([("a", 2, 1.0)], "which is no"),
    ],
)
def test_what_is_no_span_is_named(found: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        checked_spans(found, "text")


def bad_words(sample: Sample, *, value: float) -> list[tuple[int, int, float]]:
    at = sample.text.find("bad")
    return [(at, at + 3, value)] if at >= 0 else []


def test_a_span_reward_stands_at_its_tokens(tokenizer: Any) -> None:
    config = CustomConfig(function=f"{__name__}:bad_words", params={"value": -2.0}, spans=True, name="words")
    reward = SpanReward(config, bad_words, tokenizer)
    ids = [*tokenizer.encode("a bad tool", add_special_tokens=False), tokenizer.eos_token_id]
    (found,) = reward([sample("a bad tool", ids)])
    assert found.value == -2.0
    assert found.per_token is not None
    assert found.per_token.sum() == pytest.approx(-2.0)
    ends = np.array(token_ends(tokenizer, ids))
    touched = np.flatnonzero(found.per_token)
    assert all(ends[t] > 2 and (ends[t - 1] if t else 0) < 5 for t in touched)
    (other,) = reward([sample("not what the tokens say, bad", ids)])
    assert (other.value, other.per_token) == (-2.0, None)


# ---------------------------------------------------------------- a model of tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained reward model of tokens, in float32."""
    from rlft_core.models.tiny import make_tiny_model

    base = tmp_path_factory.mktemp("rm")
    source = make_tiny_model(base / "source")
    classifier = load_classifier(source, attention="dense", seed=1)
    own = with_padding(load_tokenizer(source), classifier)
    classifier.save_pretrained(base / "model")
    own.save_pretrained(base / "model")
    RewardFacts(mean=0.1, std=0.5, level="token").write(base / "model")
    return base / "model"


def reward_of(folder: Path, **keys: Any) -> RewardModelReward:
    return RewardModelReward.from_config(RewardModelConfig(model=str(folder), **keys))


def plain_rewards(reward: RewardModelReward, one: Sample) -> np.ndarray:
    facts = reward.facts
    prompt = encode_prompt(reward.tokenizer, one.row, system=facts.system, template=facts.template, chat=facts.chat)
    with torch.no_grad():
        hidden = reward.model.backbone(input_ids=torch.tensor([[*prompt, *one.token_ids.tolist()]])).last_hidden_state
        values = reward.model.head(hidden[0, len(prompt) :])[:, 0]
    found: np.ndarray = ((values - facts.mean) / facts.std).numpy()
    return found


def written(reward: RewardModelReward, text: str) -> Sample:
    ids = [*reward.tokenizer.encode(text, add_special_tokens=False), reward.tokenizer.eos_token_id]
    return sample(text, ids)


def test_a_model_of_tokens_rewards_the_policys_own_tokens(folder: Path) -> None:
    reward = reward_of(folder)
    samples = [written(reward, text) for text in ("a small tool", "tool", "files and a tool")]
    # Not as its tokenizer would write it: every letter alone.
    letters = [i for letter in "tool" for i in reward.tokenizer.encode(letter, add_special_tokens=False)]
    samples.append(sample("tool", letters, ended=False))
    for one, found in zip(samples, reward(samples), strict=True):
        assert isinstance(found, TokenRewards)
        assert found.per_token is not None
        assert found.per_token.tolist() == pytest.approx(plain_rewards(reward, one).tolist(), abs=1e-4)
        assert found.value == pytest.approx(found.per_token.mean(), abs=1e-6)


def test_a_prompt_is_computed_once_whatever_its_rows_are_called(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = reward_of(folder)
    first = written(reward, "a small tool")
    alike = Row("row-2", first.row.input, "files", {"input": first.row.input})
    other = Row("row-1", "holds files", "a tool", {"input": "holds files"})  # the id of the first, another task
    rows = [first.row, other, alike]
    samples = [Sample(row, first.text, first.token_ids, first.finish_reason) for row in rows]
    asked: list[int] = []
    values = RewardModelReward._values

    def counted(self: RewardModelReward, groups: Any, num_tokens: int) -> torch.Tensor:
        asked.extend(len(texts) for _, texts in groups)
        return values(self, groups, num_tokens)

    monkeypatch.setattr(RewardModelReward, "_values", counted)
    for one, found in zip(samples, reward(samples), strict=True):
        assert isinstance(found, TokenRewards)
        assert found.per_token is not None
        assert found.per_token.tolist() == pytest.approx(plain_rewards(reward, one).tolist(), abs=1e-4)
    assert asked == [2, 1]


def test_a_text_that_the_tokens_do_not_say_has_a_value_only(folder: Path) -> None:
    reward = reward_of(folder)
    one = written(reward, "a small tool")
    (found,) = reward([Sample(one.row, "a tool", one.token_ids, "stop")])
    (expected,) = reward([written(reward, "a tool")])
    assert isinstance(found, TokenRewards)
    assert isinstance(expected, TokenRewards)
    assert found.per_token is None
    assert found.value == pytest.approx(expected.value, abs=1e-6)


def test_smoothing_clipping_and_scale(folder: Path) -> None:
    one = written(reward_of(folder), "files and a small tool")
    plain = plain_rewards(reward_of(folder), one)
    width = len(plain)
    averaged = [plain[max(0, t - 1) : t + 2].mean() for t in range(width)]
    bound = float(np.abs(averaged).mean())
    (found,) = reward_of(folder, smooth=1, clip=bound, scale="text")([one])
    assert isinstance(found, TokenRewards)
    assert found.per_token is not None
    bounded = np.clip(averaged, -bound, bound)
    means = [0.0, *(bounded[: t + 1].mean() for t in range(width))]
    expected = [after - before for before, after in pairwise(means)]
    assert found.per_token.tolist() == pytest.approx(expected, abs=1e-5)
    assert found.value == pytest.approx(bounded.mean(), abs=1e-5)


def test_steps_of_the_mean_by_hand() -> None:
    # Means so far: 2, -1, -2, -.5.
    assert steps_of_mean(np.array([2.0, -4.0, -4.0, 4.0])).tolist() == pytest.approx([2.0, -3.0, -1.0, 1.5])
    assert steps_of_mean(np.array([-3.0])).tolist() == [-3.0]
    assert steps_of_mean(np.array([])).tolist() == []


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40), st.floats(-5, 5))
def test_steps_of_the_mean_sum_to_it_and_more_of_the_same_earns_nothing(values: list[float], level: float) -> None:
    steps = steps_of_mean(np.array(values))
    assert steps.sum() == pytest.approx(np.mean(values), abs=1e-9)
    constant = steps_of_mean(np.full(len(values), level))
    assert constant[0] == pytest.approx(level)
    assert constant[1:] == pytest.approx(0.0, abs=1e-9)


def test_smoothing_by_hand() -> None:
    assert smoothed(np.array([3.0, 0.0, 0.0, 1.0]), 1).tolist() == pytest.approx([1.5, 1.0, 1 / 3, 0.5])
    assert smoothed(np.array([3.0, 1.0]), 5).tolist() == [2.0, 2.0]
    assert smoothed(np.array([3.0, 1.0]), 0).tolist() == [3.0, 1.0]


def test_keys_for_tokens_are_refused_by_a_model_of_texts(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    RewardFacts().write(tmp_path)
    with pytest.raises(ConfigError, match="smooth and scale are for models that reward every token"):
        reward_of(tmp_path, smooth=1)
    (value,) = reward_of(tmp_path)([written(reward_of(folder), "a tool")])
    assert isinstance(value, float)
