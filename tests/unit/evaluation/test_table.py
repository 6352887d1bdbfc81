"""Systems side by side: means, paired differences, JSON, the plain table, and rows that do not match."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from rlft_core.errors import ConfigError, DataError, RewardError
from rlft_core.evaluation.table import EvaluationResult, evaluate, render
from rlft_core.rewards.protocol import RewardValue, Sample
from rlft_core.types import Row

TEXTS = {
    "base": ["a maze. a maze. a maze", "the RRD file", "x", "DNA"],
    "mle": ["maze game", "RRD file", "x y", "DNA tool"],
    "rl": ["simple maze game", "RRD file daemon", "x y z", "DNA sequencing tool"],
}
REFERENCES = ["simple maze game", "RRD file daemon", "x y z", "DNA sequencing tool"]


class Period:
    """1 without a full stop; says how many there are, and once something more."""

    name = "period"

    def __call__(self, samples: Sequence[Sample]) -> list[RewardValue]:
        return [self._value(sample) for sample in samples]

    def _value(self, sample: Sample) -> RewardValue:
        count = sample.text.count(".")
        return float(count == 0), {"count": float(count)} | ({"short": 1.0} if sample.text == "x" else {})


def systems(texts: dict[str, list[str]] = TEXTS) -> dict[str, list[Sample]]:
    return {
        system: [
            Sample(Row(f"row-{k}", "in", REFERENCES[k]), line, np.zeros(len(line.split()) + 1), "stop")
            for k, line in enumerate(lines)
        ]
        for system, lines in texts.items()
    }


@pytest.fixture(scope="module")
def result() -> EvaluationResult:
    return evaluate(systems(), rewards=[Period()], resamples=500, seed=3)


def test_the_summary_holds_a_mean_with_bounds_for_each_metric(result: EvaluationResult) -> None:
    summary = result.summary()
    assert list(summary) == ["base", "mle", "rl"]
    assert summary["rl"]["rougeL"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 4}
    assert summary["base"]["num_words"]["mean"] == (6 + 3 + 1 + 1) / 4
    assert summary["base"]["period"]["mean"] == 0.75
    assert summary["base"]["period/count"]["mean"] == 0.5
    assert summary["base"]["num_words"]["low"] < 2.75 < summary["base"]["num_words"]["high"]
    assert result.row_ids == ("row-0", "row-1", "row-2", "row-3")
    assert result.values["mle"]["num_words"] == [2.0, 2.0, 2.0, 2.0]


def test_a_detail_of_some_samples_only_is_left_out(result: EvaluationResult) -> None:
    assert "period/short" not in result.summary()["base"]


def test_differences_are_later_minus_earlier_row_by_row(result: EvaluationResult) -> None:
    paired = result.paired()
    assert list(paired) == ["mle-base", "rl-base", "rl-mle"]
    words = paired["rl-mle"]["num_words"]
    assert words == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 4, "p": 0.125}  # 2 of 16 sign patterns
    assert paired["rl-base"]["num_words"]["mean"] == 0.25
    assert paired["mle-base"]["period"]["mean"] == 0.25


def test_everything_is_json(result: EvaluationResult) -> None:
    whole = {"evaluation": result.summary(), "paired": result.paired()}
    assert json.loads(json.dumps(whole, allow_nan=False)) == whole


def test_the_same_seed_gives_the_same_result(result: EvaluationResult) -> None:
    assert evaluate(systems(), rewards=[Period()], resamples=500, seed=3) == result


def test_the_table_aligns_and_marks_what_is_sure(result: EvaluationResult) -> None:
    found = render(result, metrics=["period", "num_words", "no_such_metric"])
    lines = found.splitlines()
    assert lines[0].split() == ["base", "mle", "rl"]
    assert [line.split()[0] for line in lines[1:3]] == ["period", "num_words"]
    assert "1.000 [1.000, 1.000]" in lines[1]
    assert lines[4] == "paired differences"
    assert lines[5].split() == ["mle-base", "rl-base", "rl-mle"]
    assert lines[7].endswith("+1.000 [+1.000, +1.000]*")
    assert "+0.250 [-" in lines[7]
    assert len(lines) == 8
    assert len({len(line) for line in lines[1:3]}) == 1


def test_one_system_has_no_differences() -> None:
    alone = evaluate({"base": systems()["base"]}, resamples=100)
    assert alone.paired() == {}
    assert "paired" not in render(alone)


def test_systems_must_answer_the_same_rows() -> None:
    with pytest.raises(DataError, match="no system to evaluate"):
        evaluate({})
    with pytest.raises(DataError, match="'base' has no samples"):
        evaluate({"base": []})
    full = systems()
    with pytest.raises(DataError, match="different rows: 'base' 4, 'mle' 3"):
        evaluate({"base": full["base"], "mle": full["mle"][:3]})
    with pytest.raises(DataError, match=r"the 1\. is 'row-0' for 'base' and 'row-3' for 'mle'"):
        evaluate({"base": full["base"], "mle": full["mle"][::-1]})


class Nameless:
    """A reward that is called as it is told and scores nothing but NaN."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, samples: Sequence[Sample]) -> list[RewardValue]:
        return [float("nan")] * len(samples)


def test_a_reward_may_not_hide_a_metric_nor_fail() -> None:
    with pytest.raises(ConfigError, match="reward 'rouge1' has the name of another metric"):
        evaluate(systems(), rewards=[Nameless("rouge1")])
    with pytest.raises(RewardError, match="reward 'broken', row 'row-0', sample 0: returned float nan"):
        evaluate(systems(), rewards=[Nameless("broken")])
