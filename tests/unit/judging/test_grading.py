"""Pointwise grades: expectations by hand, what is asked, and what an engine's process makes of a group."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlft_core.config.load import parse_recipe
from rlft_core.errors import ConfigError, JudgeError
from rlft_core.judging.grading import Grader
from rlft_core.judging.questions import Questioner, Tokens
from rlft_core.judging.template import load_template, parse_template
from rlft_core.models.loading import load_tokenizer
from rlft_core.models.tiny import make_tiny_model
from rlft_core.plan.judges import check_judges
from rlft_core.types import Completion, Prompt, RolloutGroup, Row
from services.rollout.judging import Judging, judged

TEMPLATE = parse_template(
    "stars",
    {
        "user": "{context}@{response}@{principle}@",
        "labels": ["1", "2", "3"],
        "principles": {"short": "", "true": ""},
    },
)
ROW = Row("row", "task", "bb")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("judge") / "m"))


def grader(model: str, **keys: Any) -> Grader:
    return Grader.of(TEMPLATE, Tokens(load_tokenizer(model)), **{"max_length": 400, **keys})


def test_the_expected_grade_by_hand(model: str) -> None:
    # One answer by two principles. 1: half of what was said is a grade, shares .2 .2 .6, so 2.4 of 3; 2: surely 1.
    (found,) = grader(model).grades(ROW, [(0.1, 0.1, 0.3), (1.0, 0.0, 0.0)])
    assert found.value == pytest.approx((1.4 / 2 + 0.0) / 2)
    assert found.sure == pytest.approx((0.5 + 1.0) / 2)
    assert found.entropy == pytest.approx(0.9502705 / 2, abs=1e-6)
    assert found.statistics(3)["grade"] == pytest.approx(1.7)


def test_the_ends_of_the_scale(model: str) -> None:
    one = grader(model, principles=["short"])
    grades = one.grades(ROW, [(0.9, 0.0, 0.0), (0.0, 0.2, 0.0), (0.0, 0.0, 0.1)])
    assert [grade.value for grade in grades] == [0.0, 0.5, 1.0]
    with pytest.raises(JudgeError, match="row 'row': no grade has any probability"):
        one.grades(ROW, [(0.0, 0.0, 0.0)])


def test_every_answer_is_asked_by_every_principle_and_cut_when_too_long(model: str) -> None:
    asked = grader(model)
    prompts = asked.prompts(ROW, ["one", "{principle} two"])
    said = [asked.medium.tokenizer.decode(prompt).split("@")[1:3] for prompt in prompts]
    assert said == [["one", "short"], ["one", "true"], ["{principle} two", "short"], ["{principle} two", "true"]]
    assert asked.num_truncated == 0
    long = Row("row", "word " * 300, "bb")
    tight = grader(model, max_length=60)
    assert all(len(prompt) <= 60 for prompt in tight.prompts(long, ["one", "two"]))
    assert tight.num_truncated == 2
    with pytest.raises(JudgeError, match="template 'stars' alone is longer"):
        grader(model, max_length=2).prompts(ROW, ["one"])


def test_a_group_is_one_batch_and_its_grades_are_the_scores(model: str) -> None:
    judging = Judging("stars", model, TEMPLATE, None, "group", 4, 3, 400, plain=False, trust_remote_code=False)
    asking = judging.asking()
    batches: list[int] = []

    async def by_length(prompts: Sequence[list[int]], labels: tuple[int, ...]) -> np.ndarray:
        assert labels == asking.labels
        assert len(labels) == 3
        batches.append(len(prompts))
        sizes = [min(2, len(asking.medium.tokenizer.decode(prompt).split("@")[1]) - 1) for prompt in prompts]
        return np.log(np.eye(3)[sizes] * 0.8 + 1e-12)

    empty = np.zeros(1, np.float32)
    texts = ("a", "bb", "ccc")
    completions = tuple(Completion(empty.astype(np.int32), empty, empty.astype(np.int32), "stop", t) for t in texts)
    scores = asyncio.run(judged(RolloutGroup(Prompt(ROW, (1,), 3, 0), completions), judging, asking, by_length))
    assert batches == [3 * 2]
    assert [value[0] for value in scores.values] == pytest.approx([0.0, 0.5, 1.0], abs=1e-9)  # type: ignore[index]
    shown = scores.values[1][1]  # type: ignore[index]
    assert shown["grade"] == pytest.approx(2.0)
    assert shown["sure"] == pytest.approx(0.8)
    assert shown["truncated"] == 0.0


def test_a_template_is_for_one_form(model: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model)
    with pytest.raises(ConfigError, match="'stars' grades one response, and here two are compared"):
        Questioner.of(TEMPLATE, Tokens(tokenizer), max_length=400)
    with pytest.raises(ConfigError, match="'better-answer' compares two responses"):
        Grader.of(load_template("better-answer"), Tokens(tokenizer), max_length=400)
    with pytest.raises(ConfigError, match=r"has {response}, which grades, and {response_a}, which compares"):
        parse_template("t", {"user": "{context} {response} {response_a}", "labels": ["1", "2"]})
    with pytest.raises(ConfigError, match="labels must be texts from worst to best"):
        parse_template("t", {"user": "{context} {response}", "labels": ["1"]})
    with pytest.raises(ConfigError, match=r"has no {context}"):
        parse_template("t", {"user": "{response}", "labels": ["1", "2"]})


def test_grades_are_held_against_nothing(model: str, tmp_path: Path) -> None:
    judge = {"type": "judge", "template": "grade-answer", "against": "reference"}
    stages = [{"type": "ppo", "rewards": [judge]}]
    recipe = parse_recipe({"model": {"name": model}, "data": {"train": "rows.jsonl"}, "stages": stages})
    with pytest.raises(ConfigError, match=r"stages.ppo.rewards, judge.*held against nothing; leave out `against`"):
        check_judges(recipe, load_tokenizer(model), tmp_path)
