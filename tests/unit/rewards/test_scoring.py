"""From rewards to scores: sums, places, names; and what every kind of bad value gets."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from rlft_core.errors import EngineError, RewardError
from rlft_core.rewards.protocol import Sample, WeightedReward
from rlft_core.rewards.scoring import breakdowns, num_skipped, score_group
from rlft_core.types import Completion, Prompt, RolloutGroup, Row


@dataclass
class Scripted:
    """A reward that gives what `of` says of each text, or what `all_at_once` says of the batch."""

    name: str
    of: Callable[[str], Any] = float
    all_at_once: Callable[[Sequence[Sample]], Any] | None = None
    calls: list[int] = field(default_factory=list)

    def __call__(self, samples: Sequence[Sample]) -> Any:
        self.calls.append(len(samples))
        if self.all_at_once is not None:
            return self.all_at_once(samples)
        return [self.of(sample.text) for sample in samples]


def group(*texts: str, num_tokens: int = 3) -> RolloutGroup:
    completions = tuple(
        Completion(
            token_ids=np.arange(num_tokens + k, dtype=np.int32),
            logprobs=np.zeros(num_tokens + k, dtype=np.float32),
            versions=np.zeros(num_tokens + k, dtype=np.int32),
            finish_reason="stop",
            text=text,
        )
        for k, text in enumerate(texts)
    )
    return RolloutGroup(Prompt(Row("row-7", "in", "out"), (1, 2), len(texts), 0), completions)


def fail_on(bad: str, error: Exception) -> Callable[[str], float]:
    def value(text: str) -> float:
        if text == bad:
            raise error
        return 1.0

    return value


def test_the_weighted_sum_stands_at_the_last_token() -> None:
    rewards = [
        WeightedReward(Scripted("a", lambda text: float(text)), 0.5),
        WeightedReward(Scripted("b", lambda text: (2.0, {"x": 1.0, "y": 0.25})), -0.25),
        WeightedReward(Scripted("seen", lambda text: 100), 0.0),
    ]
    given = group("3", "-1")
    scored = score_group(given, rewards)
    assert scored.group is given
    assert [score.per_token.tolist() for score in scored.scores] == [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0, -1.0]]
    assert [score.per_token.dtype for score in scored.scores] == [np.float32, np.float32]
    assert [score.total for score in scored.scores] == [1.0, -1.0]
    assert scored.scores[0].breakdown == {"a": 3.0, "b": 2.0, "b/x": 1.0, "b/y": 0.25, "seen": 100.0}
    assert [score.skipped for score in scored.scores] == [None, None]
    assert num_skipped(scored) == 0


@pytest.mark.parametrize("value", [1, True, np.float32(1.0), np.bool_(True), np.int64(1), 1.0])
def test_every_kind_of_number_counts(value: object) -> None:
    scored = score_group(group("x"), [WeightedReward(Scripted("r", lambda text: value), 1.0)])
    assert scored.scores[0].total == 1.0


def test_a_numpy_array_is_one_value_per_sample() -> None:
    reward = Scripted("r", all_at_once=lambda samples: np.arange(len(samples)) / 2)
    scored = score_group(group("x", "y", "z"), [WeightedReward(reward, 1.0)])
    assert [score.total for score in scored.scores] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    "value, shown",
    [
        (float("nan"), "float nan"),
        (float("inf"), "float inf"),
        (-float("inf"), "float -inf"),
        (np.float32("nan"), "nan"),
        (None, "NoneType None"),
        ("0.5", "str '0.5'"),
        (1 + 2j, "complex"),
        ([1.0], r"list \[1.0\]"),
        (np.array([1.0]), "ndarray"),
        (10**400, "int 1000"),
        ((1.0, {"part": float("nan")}), "float nan as 'part'"),
        ((1.0, {"part": "good"}), "str 'good' as 'part'"),
        ((1.0, 2.0), "details float 2.0"),
        ((1.0, 2.0, 3.0), "tuple"),
        ((float("nan"), {}), "float nan"),
    ],
)
def test_a_value_that_is_no_finite_number_stops_the_run(value: object, shown: str) -> None:
    reward = Scripted("polite", lambda text: value if text == "bad" else 1.0)
    with pytest.raises(RewardError, match=f"reward 'polite', row 'row-7', sample 1: returned .*{shown}") as caught:
        score_group(group("good", "bad"), [WeightedReward(reward, 1.0)])
    assert "'bad'" in str(caught.value)


def test_a_reward_that_raises_names_the_sample_and_chains_the_exception() -> None:
    cause = ZeroDivisionError("no words")
    reward = Scripted("polite", fail_on("bad", cause))
    with pytest.raises(
        RewardError, match="'polite', row 'row-7', sample 2: raised ZeroDivisionError: no words"
    ) as caught:
        score_group(group("a", "b", "bad"), [WeightedReward(reward, 1.0)])
    assert caught.value.__cause__ is cause
    assert "test_scoring.py:" in str(caught.value)
    assert reward.calls == [3, 1, 1, 1]  # once together, then one by one to find it
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301 - as Ray does it


def raise_if_several(samples: Sequence[Sample]) -> list[float]:
    if len(samples) > 1:
        raise KeyError("other sample")
    return [1.0]


def test_a_reward_that_fails_only_on_several_samples_is_refused_even_with_a_budget() -> None:
    reward = Scripted("relative", all_at_once=raise_if_several)
    with pytest.raises(RewardError, match=r"'relative' raised KeyError.*none of them alone") as caught:
        score_group(group("a", "b"), [WeightedReward(reward, 1.0)], skip_budget=9)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    "returned, shown",
    [
        ([1.0], "returned 1 values for 2 samples"),
        ([1.0, 2.0, 3.0], "returned 3 values for 2 samples"),
        ([], "returned 0 values"),
        (None, "returned NoneType None, not a list"),
        (0.5, "returned float 0.5, not a list"),
        ({"a": 1}, "returned dict"),
        ("ab", "returned str 'ab'"),
    ],
)
def test_a_wrong_number_of_values_is_refused_even_with_a_budget(returned: object, shown: str) -> None:
    reward = Scripted("batchy", all_at_once=lambda samples: returned)
    with pytest.raises(RewardError, match=f"'batchy' on row 'row-7' {shown}"):
        score_group(group("a", "b"), [WeightedReward(reward, 1.0)], skip_budget=9)


def test_a_skipped_sample_is_named_and_counted_and_keeps_its_other_values() -> None:
    rewards = [
        WeightedReward(Scripted("length", lambda text: 0.5), 1.0),
        WeightedReward(Scripted("polite", fail_on("bad", ValueError("?"))), 1.0),
    ]
    scored = score_group(group("good", "bad"), rewards, skip_budget=1)
    kept, skipped = scored.scores
    assert (kept.skipped, kept.total) == (None, 1.5)
    assert skipped.skipped == "polite"
    assert skipped.per_token.tolist() == [0.0, 0.0, 0.0, 0.0]
    assert skipped.breakdown == {"length": 0.5}
    assert num_skipped(scored) == 1


def test_one_sample_that_fails_twice_is_skipped_once() -> None:
    rewards = [
        WeightedReward(Scripted("first", lambda text: float("nan") if text == "bad" else 1.0), 1.0),
        WeightedReward(Scripted("second", fail_on("bad", ValueError("?"))), 1.0),
    ]
    scored = score_group(group("bad", "good"), rewards, skip_budget=1)
    assert [score.skipped for score in scored.scores] == ["first", None]


def test_more_failures_than_the_budget_stop_the_run() -> None:
    reward = Scripted("polite", lambda text: float("nan"))
    with pytest.raises(RewardError, match=r"sample 0: returned .*\(3 samples failed, 2 more may be skipped\)"):
        score_group(group("a", "b", "c"), [WeightedReward(reward, 1.0)], skip_budget=2)


def test_a_sum_beyond_float32_is_refused() -> None:
    with pytest.raises(RewardError, match="more than float32 holds"):
        score_group(group("a"), [WeightedReward(Scripted("huge", lambda text: 1e30), 1e30)])
    with pytest.raises(RewardError, match="more than float32 holds"):
        score_group(group("a"), [WeightedReward(Scripted("huge", lambda text: 1e300), 1e300)])


def test_a_completion_without_tokens_cannot_carry_a_reward() -> None:
    with pytest.raises(RewardError, match="has no token to stand at"):
        score_group(group("a", num_tokens=0), [WeightedReward(Scripted("r", lambda text: 1.0), 1.0)])


def test_a_failing_service_is_not_blamed_on_a_sample() -> None:
    reward = Scripted("judge", fail_on("a", EngineError("judge 3 died")))
    with pytest.raises(EngineError, match="judge 3 died"):
        score_group(group("a"), [WeightedReward(reward, 1.0)], skip_budget=9)


def test_rewards_need_different_names() -> None:
    twice = [WeightedReward(Scripted("r", lambda text: 1.0), 1.0)] * 2
    for rewards in ([], twice):
        with pytest.raises(ValueError, match="different names"):
            score_group(group("a"), rewards)


def test_breakdowns_skip_nothing() -> None:
    samples = [Sample(Row(f"row-{k}", "in", "out"), text, np.zeros(1), "stop") for k, text in enumerate(["1", "x"])]
    assert breakdowns(Scripted("r", lambda text: (2.0, {"d": 1.0})), samples) == [{"r": 2.0, "r/d": 1.0}] * 2
    with pytest.raises(RewardError, match="row 'row-1', sample 1: raised ValueError"):
        breakdowns(Scripted("r", float), samples)
