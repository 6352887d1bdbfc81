"""A judge that always prefers one place is told of, with its numbers, once."""

from __future__ import annotations

import pytest

from services.observe.judge_alarm import JudgeAlarm


def told_of(*steps: tuple[float, float], label: str = "judge", stage: str = "ppo") -> list[str]:
    told: list[str] = []
    alarm = JudgeAlarm(told.append)
    for step, (agreement, first) in enumerate(steps):
        alarm.log(step, {f"reward/{label}/agreement": agreement, f"reward/{label}/first": first, "kl/mean": 1.0}, stage)
    return told


def test_a_judge_that_always_takes_the_first_is_told_of_once_with_its_numbers() -> None:
    (line,) = told_of(*[(0.1, 0.9)] * 4, *[(0.2, 0.8)] * 8, label="harmless")
    assert line.startswith("ppo: harmless judges by the place")
    assert "said the same in 12% of" in line
    assert "stood first was given 88% of" in line


def test_one_that_takes_the_second_too() -> None:
    (line,) = told_of(*[(0.0, 0.25)] * 5)
    assert "stood second was given 75% of" in line


@pytest.mark.parametrize(
    "steps", [[(0.1, 0.9)] * 4, [(0.5, 0.5)] * 20, [(0.9, 0.9)] * 20, [(0.1, 0.9), *[(0.6, 0.6)] * 9]]
)
def test_few_steps_a_coin_and_a_judge_of_texts_are_no_cause(steps: list[tuple[float, float]]) -> None:
    assert told_of(*steps) == []


def test_stages_and_judges_are_apart() -> None:
    told: list[str] = []
    alarm = JudgeAlarm(told.append)
    for step in range(5):
        metrics = {
            "reward/good/agreement": 0.9,
            "reward/good/first": 0.6,
            "reward/bad/agreement": 0.1,
            "reward/bad/first": 0.6,
        }
        alarm.log(step, metrics, "one")
        alarm.log(step, metrics, "two")
    assert [line.split(" judges")[0] for line in told] == ["one: bad", "two: bad"]
