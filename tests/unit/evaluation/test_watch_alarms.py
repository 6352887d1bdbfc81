"""When a look is an alarm, and which checkpoint is the best."""

from __future__ import annotations

import json

import pytest

from rlft_core.config.watch import WatchConfig
from rlft_core.evaluation.watch import Look, alarms, best_of, watched

CONFIG = WatchConfig(falls={"rougeL": 0.05}, rises={"repetition_share": 0.1})


def look(step: int, reward: float, rouge: list[float], repetition: float = 0.0) -> Look:
    rows = len(rouge)
    return Look(step, (reward,) * rows, {"rougeL": tuple(rouge), "repetition_share": (repetition,) * rows})


START = look(0, 0.2, [0.5, 0.4, 0.6, 0.5])


@pytest.mark.parametrize(
    "now, words",
    [
        (look(5, 0.9, [0.1, 0.1, 0.1, 0.1]), ["rougeL fell by 0.400"]),
        (look(5, 0.9, [0.1] * 4, repetition=0.5), ["rougeL fell by 0.400", "repetition_share rose by 0.500"]),
        (look(5, 0.1, [0.1, 0.1, 0.1, 0.1]), []),  # the reward fell too: a bad step, but not a hacked reward
        (look(5, 0.9, [0.47, 0.37, 0.57, 0.47]), []),  # within the threshold
        (look(5, 0.9, [0.0, 0.8, 0.8, 0.0]), []),  # beyond it on average, but it may be chance
        (look(5, 0.9, [0.9, 0.9, 0.9, 0.9]), []),
    ],
)
def test_alarms(now: Look, words: list[str]) -> None:
    found = alarms(START, now, CONFIG)
    assert len(found) == len(words)
    for alarm, word in zip(found, words, strict=True):
        assert word in alarm
        assert "the reward rose from 0.200 to 0.900" in alarm


def test_a_reward_that_cannot_rise_says_nothing_against_an_alarm() -> None:
    """A judge that compares the samples of one prompt gives the only one of a look half a point, whatever it is."""
    first, now = look(0, 0.5, [0.5] * 4), look(5, 0.5, [0.1] * 4)
    assert alarms(first, now, CONFIG) == ()
    (told,) = alarms(first, now, CONFIG, relative=True)
    assert told.startswith("samples are only compared with each other, but rougeL fell by 0.400")


def test_the_best_look_and_ties_go_to_the_earliest() -> None:
    looks = [look(0, 0, [0.3, 0.3]), look(10, 0, [0.5, 0.3]), look(20, 0, [0.4, 0.4])]
    assert best_of(looks, "rougeL").step == 10


def test_a_look_survives_its_file() -> None:
    line = json.loads(json.dumps(START.as_dict(["something"], best=True)))
    assert Look.from_dict(line) == START
    assert line["alarms"] == ["something"]
    assert line["metrics"]["rougeL"]["mean"] == pytest.approx(0.5, abs=1e-12)


def test_what_is_watched_holds_every_metric_once() -> None:
    assert watched(CONFIG) == ("rougeL", "repetition_share", "num_words")
