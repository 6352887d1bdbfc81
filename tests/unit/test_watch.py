"""The watch beside the loop: when it looks, what it writes, which model it keeps, and what a second start does to that."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlft_core.config.online import PpoStage
from rlft_core.config.watch import WatchConfig
from rlft_core.types import Prompt, Row
from services.observe.samples import SampleRecord
from services.pipeline.judges import only_compares
from services.training.watch import LOG, OUTPUTS, Watch

PROMPTS = [Prompt(Row(f"row-{k}", "in", "out"), (1, 2), 1, k) for k in range(4)]


class Engines:
    """Answers at once, with nothing in particular."""

    def generate(self, prompts: Sequence[Prompt], sampling: Any) -> list[asyncio.Future[str]]:
        assert sampling.temperature == 0.0
        found = []
        for prompt in prompts:
            future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            future.set_result(prompt.row.id)
            found.append(future)
        return found


class Scores:
    """Gives every look the next of some (reward, ROUGE-L) pairs."""

    def __init__(self, *looks: tuple[float, float]) -> None:
        self._looks = list(looks)

    async def score(self, group: str) -> str:
        return group

    async def measure(self, scored: Sequence[str]) -> tuple[list[float], dict[str, list[float]]]:
        reward, rouge = self._looks.pop(0)
        rows = len(scored)
        metrics = {"rougeL": [rouge] * rows, "similarity_to_reference": [0.5] * rows, "repetition_share": [0.0] * rows}
        return [reward] * rows, metrics | {"num_words": [5.0] * rows}

    async def records(self, scored: Sequence[str]) -> list[SampleRecord]:
        return [SampleRecord(row, "in", f"out {len(self._looks)}", "ref", 0.5, {}, "stop") for row in scored]


class Keeper:
    """Writes an empty folder, as a learner writes a model."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def keep(self, name: str) -> None:
        (self._folder / name).mkdir(exist_ok=True)


def watch(folder: Path, scores: Scores, told: list[str], **keys: Any) -> Watch:
    config = WatchConfig.model_validate({"every": 2, **keys})
    parts: Any = (Engines(), scores, Keeper(folder))
    return Watch(config, PROMPTS, 8, 6, folder, *parts, told.append)


def look(one: Watch, *steps: int) -> None:
    async def all_of_them() -> None:
        for step in steps:
            await one.look(step)

    asyncio.run(all_of_them())


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_it_looks_every_n_steps_and_at_the_end(tmp_path: Path) -> None:
    one = watch(tmp_path, Scores((0.1, 0.3), (0.2, 0.4), (0.3, 0.4)), [], every=4)
    look(one, 0, 1, 2, 3, 4, 5, 6)
    assert [line["step"] for line in lines(tmp_path)] == [0, 4, 6]
    assert [line["best"] for line in lines(tmp_path)] == [True, True, False]
    assert one.best_step == 4
    assert one.best_model() is None  # nobody asked to keep it
    assert list(tmp_path.glob("best-*")) == []


def test_an_alarm_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    told: list[str] = []
    one = watch(tmp_path, Scores((0.1, 0.5), (0.9, 0.2)), told)
    look(one, 0, 2)
    assert not one.stopped
    assert "rougeL fell by 0.300" in told[0]
    assert lines(tmp_path)[1]["alarms"]


def test_an_alarm_does_not_wait_for_a_reward_that_cannot_rise(tmp_path: Path) -> None:
    told: list[str] = []
    one = watch(tmp_path, Scores((0.5, 0.5), (0.5, 0.2)), told)
    one.relative = True
    look(one, 0, 2)
    assert "samples are only compared with each other, but rougeL fell by 0.300" in told[0]


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([{"type": "judge"}], True),
        ([{"type": "judge"}, {"type": "api_judge", "url": "http://j/v1", "model": "m"}], True),
        ([{"type": "judge", "against": "reference"}], False),
        ([{"type": "judge", "template": "grade-answer"}], False),
        ([{"type": "judge"}, {"type": "ends_properly"}], False),
    ],
)
def test_which_rewards_only_compare(tmp_path: Path, rewards: list[dict[str, Any]], expected: bool) -> None:
    stage = PpoStage.model_validate({"type": "ppo", "rewards": rewards, "samples_per_prompt": 4})
    assert only_compares(stage, tmp_path) is expected


def test_early_stop_keeps_the_best_model(tmp_path: Path) -> None:
    told: list[str] = []
    one = watch(tmp_path, Scores((0.1, 0.5), (0.2, 0.6), (0.9, 0.2)), told, early_stop=True)
    look(one, 0, 2, 4)
    assert one.stopped
    assert one.best_model() == tmp_path / "best-000002"
    assert "the model of step 2 is kept" in told[-1]


def test_keep_best_takes_the_last_model_when_it_is_the_best(tmp_path: Path) -> None:
    one = watch(tmp_path, Scores((0.1, 0.1), (0.2, 0.2), (0.3, 0.3), (0.4, 0.4)), [], keep_best=True)
    look(one, 0, 2, 4, 6)
    assert one.best_model() is None
    assert sorted(folder.name for folder in tmp_path.glob("best-*")) == ["best-000002", "best-000004"]
    one.tidy()
    assert list(tmp_path.glob("best-*")) == []


def test_looks_that_are_made_again_replace_the_old_ones(tmp_path: Path) -> None:
    look(watch(tmp_path, Scores((0.1, 0.5), (0.2, 0.7), (0.3, 0.6)), [], keep_best=True), 0, 2, 4)
    again = watch(tmp_path, Scores((0.2, 0.4), (0.3, 0.45)), [], keep_best=True)
    look(again, 2, 4)
    assert [(line["step"], line["metrics"]["rougeL"]["mean"]) for line in lines(tmp_path)] == [
        (0, 0.5),
        (2, 0.4),
        (4, 0.45),
    ]
    answers = [json.loads(line) for line in (tmp_path / OUTPUTS).read_text().splitlines()]
    assert [(line["step"], line["output"]) for line in answers if line["id"] == "row-1"] == [
        (0, "out 2"),
        (2, "out 1"),
        (4, "out 0"),
    ]
    assert len(answers) == 3 * len(PROMPTS)
    assert set(answers[0]) == {"stage", "step", "id", "prompt", "reference", "output", "ended", "reward"}
    assert again.best_step == 0


def test_best_models_of_steps_that_are_done_again_do_not_outlive_the_new_ones(tmp_path: Path) -> None:
    look(watch(tmp_path, Scores((0.1, 0.1), (0.2, 0.2), (0.3, 0.3)), [], keep_best=True), 0, 2, 4)
    again = watch(tmp_path, Scores((0.1, 0.1), (0.9, 0.9), (0.2, 0.2), (0.3, 0.3)), [], keep_best=True)
    look(again, 0, 2, 4, 6)  # another time it comes out otherwise
    assert again.best_model() == tmp_path / "best-000002"
    assert [folder.name for folder in sorted(tmp_path.glob("best-*"))] == ["best-000000", "best-000002"]


def test_a_kept_model_that_is_gone_is_told_of(tmp_path: Path) -> None:
    told: list[str] = []
    one = watch(tmp_path, Scores((0.1, 0.5), (0.2, 0.4)), told, keep_best=True)
    look(one, 0, 2)
    one.tidy()
    assert one.best_model() is None
    assert "no longer there" in told[-1]


def test_without_a_configuration_nothing_happens(tmp_path: Path) -> None:
    parts: Any = (Engines(), Scores(), Keeper(tmp_path))
    look(Watch(None, [], 8, 6, tmp_path, *parts, print), 0, 6)
    assert not (tmp_path / LOG).exists()
