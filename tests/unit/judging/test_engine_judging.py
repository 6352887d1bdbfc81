"""What an engine's process makes of a group: which prompts, how often, and what comes of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from rlft_core.errors import JudgeError
from rlft_core.judging.questions import Questioner
from rlft_core.judging.template import parse_template
from rlft_core.models.tiny import make_tiny_model
from rlft_core.rewards.given import GivenScores
from rlft_core.types import Completion, Prompt, RolloutGroup, Row
from services.rollout.judging import Judging, judged

TEMPLATE = parse_template("t", {"user": "{context}@{response_a}@{response_b}@", "labels": ["A", "B"]})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("judge") / "m"))


def group(*texts: str, seed: int = 1, task: str = "task") -> RolloutGroup:
    completions = tuple(
        Completion(np.zeros(1, np.int32), np.zeros(1, np.float32), np.zeros(1, np.int32), "stop", text)
        for text in texts
    )
    return RolloutGroup(Prompt(Row("row", task, "bb"), (1, 2), len(texts), seed), completions)


class Longer:
    """An engine that prefers the longer answer, and a little whatever stands first."""

    def __init__(self, questioner: Questioner) -> None:
        self.questioner = questioner
        self.batches: list[int] = []

    async def __call__(self, prompts: Sequence[list[int]], labels: tuple[int, int]) -> np.ndarray:
        assert labels == self.questioner.labels
        self.batches.append(len(prompts))
        answers = [self.questioner.medium.tokenizer.decode(prompt).split("@")[1:3] for prompt in prompts]
        chances = np.array([self._of(len(first), len(second)) for first, second in answers])
        return np.log(chances)

    @staticmethod
    def _of(first: int, second: int) -> tuple[float, float]:
        return (0.8, 0.1) if first > second else (0.6, 0.35) if first == second else (0.3, 0.5)


def judge(model: str, one: RolloutGroup, *, max_length: int = 400, **changes: object) -> tuple[GivenScores, Longer]:
    keys = {"principles": None, "against": "group", "all_pairs": 4, "rounds": 3} | changes
    judging = Judging("judge", model, TEMPLATE, max_length=max_length, plain=False, trust_remote_code=False, **keys)  # type: ignore[arg-type]
    questioner = judging.asking()
    assert isinstance(questioner, Questioner)
    engine = Longer(questioner)
    return asyncio.run(judged(one, judging, questioner, engine)), engine


def numbers(scores: GivenScores) -> list[float]:
    return [value[0] for value in scores.values]  # type: ignore[index]


def test_a_small_group_is_one_batch_of_all_pairs(model: str) -> None:
    scores, engine = judge(model, group("a", "bbb", "cc"))
    assert numbers(scores) == [0.0, 1.0, 0.5]
    assert engine.batches == [2 * 3]
    (_, shown) = scores.values[1]  # type: ignore[misc]
    assert shown == {
        "agreement": 1.0,
        "first": pytest.approx((0.8 / 0.9 + 0.3 / 0.8) / 2),
        "entropy": pytest.approx(0.5455946, abs=1e-6),
        "ties": 0.0,
        "truncated": 0.0,
    }
    assert scores.span[0] <= scores.span[1]


def test_a_large_group_takes_calls_that_grow_with_its_size(model: str) -> None:
    for size in (8, 16, 32):
        scores, engine = judge(model, group(*("x" * (k + 1) for k in range(size))), rounds=3)
        assert engine.batches == [size] * 3  # size / 2 comparisons in both orders, three times
        assert int(np.argmax(numbers(scores))) >= size - 4


def test_equal_answers_are_not_asked(model: str) -> None:
    scores, engine = judge(model, group("a", "a", "a"))
    assert numbers(scores) == [0.5] * 3
    assert engine.batches == []


def test_answers_against_the_rows_output(model: str) -> None:
    scores, engine = judge(model, group("ccc", "bb", "a"), against="reference")
    assert numbers(scores) == [1.0, 0.5, 0.0]
    assert engine.batches == [4]


def test_what_was_cut_is_counted(model: str) -> None:
    scores, _ = judge(model, group("a", "b", task="word " * 300), max_length=80)
    assert [value[1]["truncated"] for value in scores.values] == [1.0, 1.0]  # type: ignore[index]


def test_what_was_cut_is_told_of_its_own_group_alone(model: str) -> None:
    """A judge's actor has one asking for all groups that it judges at once."""
    judging = Judging("judge", model, TEMPLATE, None, "group", 4, 3, 80, plain=False, trust_remote_code=False)
    asking = judging.asking()
    assert isinstance(asking, Questioner)
    longer = Longer(asking)

    async def slowly(prompts: Sequence[list[int]], labels: tuple[int, int]) -> np.ndarray:
        await asyncio.sleep(0)
        return await longer(prompts, labels)

    async def all_at_once() -> list[GivenScores]:
        groups = [group("a", "bb"), group("a", "bb", task="word " * 300), group("a", "bb")]
        return await asyncio.gather(*(judged(one, judging, asking, slowly) for one in groups))

    found = asyncio.run(all_at_once())
    assert [scores.values[0][1]["truncated"] for scores in found] == [0.0, 1.0, 0.0]  # type: ignore[index]


def test_a_probability_that_is_no_number_is_no_tie(model: str) -> None:
    judging = Judging("judge", model, TEMPLATE, None, "group", 4, 3, 400, plain=False, trust_remote_code=False)

    async def broken(prompts: Sequence[list[int]], labels: tuple[int, int]) -> np.ndarray:
        return np.full((len(prompts), 2), np.nan)

    with pytest.raises(JudgeError, match="row 'row': the judge gave a probability that is no number"):
        asyncio.run(judged(group("a", "b"), judging, judging.asking(), broken))
