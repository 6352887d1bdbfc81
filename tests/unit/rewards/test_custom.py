"""Users' own functions: importing, calling, and every way in which they can be missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlft_core.config.rewards import (
    CustomConfig,
    EmbeddingSimilarityConfig,
    ExactMatchConfig,
    RepetitionConfig,
    RulesConfig,
)
from rlft_core.errors import ConfigError, DataError, ModelError
from rlft_core.rewards.check import check_references, check_rewards
from rlft_core.rewards.custom import CustomReward
from rlft_core.rewards.protocol import Sample
from rlft_core.types import Row

MODULE = """
def words(sample, bonus=0.0):
    return len(sample.text.split()) + bonus

def detailed(sample):
    return 1.0, {"chars": len(sample.text)}

def batch(samples):
    return [float(len(s.text)) for s in samples]

def two(sample, other): return 0.0

async def later(sample): return 0.0

class Scorer:
    @staticmethod
    def static(sample): return 7.0
    def __call__(self, sample): return float(sample.row.fields["level"])
    def method(self, sample): return 5.0

scorer = Scorer()
LIMIT = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's module on the import path, with a name of its own for each test."""
    name = f"user_rewards_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_broken.py").write_text("raise RuntimeError('licence expired')")
    (tmp_path / f"{name}_syntax.py").write_text("def f(:")
    (tmp_path / f"{name}_needs.py").write_text("import a_module_that_nobody_has")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def sample(text: str) -> Sample:
    return Sample(Row("r", "in", "out", {"level": 2}), text, np.zeros(1), "stop")


def test_a_function_is_called_for_each_sample_with_its_parameters(module: str) -> None:
    samples = [sample("a b"), sample("a")]
    config = CustomConfig(function=f"{module}:words", params={"bonus": 0.5}, name="mine")
    assert CustomReward.from_config(config)(samples) == [2.5, 1.5]
    assert CustomReward.from_config(config).name == "mine"
    assert CustomReward.from_config(CustomConfig(function=f"{module}:detailed"))(samples[:1]) == [(1.0, {"chars": 3})]


def test_a_batched_function_gets_all_samples(module: str) -> None:
    config = CustomConfig(function=f"{module}:batch", batched=True)
    assert CustomReward.from_config(config)([sample("abc"), sample("")]) == [3.0, 0.0]


@pytest.mark.parametrize("attribute, value", [("scorer", 2.0), ("Scorer.static", 7.0), ("scorer.method", 5.0)])
def test_whatever_can_be_called_is_a_function(module: str, attribute: str, value: float) -> None:
    assert CustomReward.from_config(CustomConfig(function=f"{module}:{attribute}"))([sample("a")]) == [value]


@pytest.mark.parametrize(
    "function, params, message",
    [
        ("no_such_package.rewards:f", {}, "there is no module 'no_such_package'"),
        ("{m}.inner:f", {}, "there is no module '{m}.inner'"),
        ("{m}:wrods", {}, "has no 'wrods'. It has: Scorer, batch, detailed, later, scorer, two, words"),
        ("{m}:Scorer.missing", {}, "has no 'Scorer.missing'"),
        ("{m}:LIMIT", {}, "is of type int, not a function"),
        ("{m}:later", {}, "is async"),
        ("{m}:Scorer", {}, "is a class"),
        ("{m}:words", {"bonsu": 1}, "cannot be called as f.sample, bonsu=.*unexpected keyword"),
        ("{m}:two", {}, "missing a required argument: 'other'"),
        ("{m}_broken:f", {}, "importing '{m}_broken' raised RuntimeError: licence expired"),
        ("{m}_syntax:f", {}, "importing '{m}_syntax' raised SyntaxError"),
        ("{m}_needs:f", {}, "needs the module 'a_module_that_nobody_has'"),
    ],
)
def test_a_function_that_cannot_be_used_is_refused_before_the_start(
    module: str, function: str, params: dict[str, object], message: str
) -> None:
    config = CustomConfig(function=function.format(m=module), params=params, name="mine")
    with pytest.raises(ConfigError, match="reward 'mine': .*" + message.format(m=module)):
        check_rewards([RepetitionConfig(), config])


def test_a_column_that_the_data_lacks_is_named() -> None:
    rules = RulesConfig.model_validate({"checks": [{"check": "no_words_of_field", "field": "package"}]})
    with pytest.raises(ConfigError, match=r"reward 'rules' reads the column 'package', .* columns: synopsis, text"):
        check_rewards([rules], fields=["text", "synopsis"])
    check_rewards([rules], fields=["package"])
    check_rewards([rules])


def test_an_embedding_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        check_rewards([EmbeddingSimilarityConfig(model=str(tmp_path / "nowhere"))])


def test_a_row_without_an_output_is_named_where_a_reference_is_needed() -> None:
    rows = [Row("one", "in", "out"), Row("two", "in", " ")]
    check_references([RepetitionConfig()], rows)
    check_references([ExactMatchConfig()], rows[:1])
    with pytest.raises(DataError, match="row 'two' has an empty output, and reward 'exact_match'"):
        check_references([ExactMatchConfig()], rows)
