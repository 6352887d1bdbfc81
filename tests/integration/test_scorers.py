"""Reward actors: a user's own function that fails, samples that may be skipped, and an actor that is killed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from rlft_core.config.online import PpoStage
from rlft_core.config.rewards import CustomConfig, LengthConfig, RewardConfig, RewardModelConfig
from rlft_core.errors import DeadlineError, RewardError
from rlft_core.models.loading import load_tokenizer
from rlft_core.models.reward_model import RewardFacts, load_classifier, with_padding
from rlft_core.rewards.protocol import samples_of
from rlft_core.rewards.reward_model import RewardModelReward
from rlft_core.types import Completion, Prompt, RolloutGroup, Row, ScoredGroup
from services.pipeline.stage_online import create_scorers
from services.scoring.reward_models import ModelPool
from services.scoring.scorers import ScorerPool
from tests.integration.support import kill, ppo

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("cluster")]

OWN_REWARDS = '''
import os, pathlib, time

def picky(sample):
    if "bad" in sample.text:
        raise KeyError("no such word")
    return float(len(sample.text)), {"words": len(sample.text.split())}

def nan(sample):
    return float("nan") if sample.text == "bad" else 1.0

def sleepy(sample, marker):
    """Tells its process and is slow, the first time."""
    path = pathlib.Path(marker)
    first = not path.exists()
    with path.open("a") as file:
        file.write(f"{os.getpid()}\\n")
    if first:
        time.sleep(30)
    return 1.0
'''


TOLD: list[str] = []
"""What a person would have read."""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a user's module in it."""
    (tmp_path / "own_rewards.py").write_text(OWN_REWARDS)
    return tmp_path


def pool_of(own: Path, *rewards: RewardConfig, **changes: Any) -> ScorerPool:
    stage = PpoStage.model_validate(ppo(**changes) | {"rewards": list(rewards)})
    return create_scorers(stage, stage.rewards, own, notice=TOLD.append)


def group(number: int, *texts: str) -> RolloutGroup:
    def completion(text: str) -> Completion:
        ids = np.arange(len(text) + 1, dtype=np.int32)
        return Completion(ids, np.zeros(len(ids), np.float32), np.zeros(len(ids), np.int32), "stop", text)

    prompt = Prompt(Row(f"row-{number}", "in", "out"), (1, 2), len(texts), number)
    return RolloutGroup(prompt, tuple(completion(text) for text in texts), "engine-0")


def run(pool: ScorerPool, test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        try:
            await pool.start()
            await asyncio.wait_for(test(), 60.0)
        finally:
            await pool.stop()

    asyncio.run(whole())


async def scores(pool: ScorerPool, groups: Sequence[RolloutGroup]) -> list[ScoredGroup]:
    refs = await asyncio.gather(*(pool.score(ray.put(one)) for one in groups))
    found: list[ScoredGroup] = ray.get(list(refs))
    return found


def test_several_actors_score_every_group_once_and_in_its_place(own: Path) -> None:
    rewards = (
        CustomConfig(function="own_rewards:picky", name="mine", weight=0.5),
        LengthConfig(unit="words", min=2, weight=2.0),
    )
    pool = pool_of(own, *rewards, num_scorers=2)

    async def test() -> None:
        found = await scores(pool, [group(k, "good one", "x" * k) for k in range(1, 7)])
        assert [scored.group.prompt.row.id for scored in found] == [f"row-{k}" for k in range(1, 7)]
        first = found[2].scores[0]
        assert first.breakdown == {"mine": 8.0, "mine/words": 2.0, "length": 1.0, "length/words": 2.0}
        assert first.total == pytest.approx(0.5 * 8 + 2.0 * 1, abs=1e-6)
        assert first.per_token[:-1].tolist() == [0.0] * 8
        assert [scored.scores[1].breakdown["mine"] for scored in found] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
        assert pool.num_skipped == 0
        records = await pool.records([ray.put(found[0])])
        assert [(r.id, r.output, r.reward) for r in records] == [("row-1", "good one", 6.0), ("row-1", "x", 0.5)]

    run(pool, test)


@pytest.mark.parametrize(
    "function, told", [("picky", r"raised KeyError: 'no such word'.*own_rewards\.py:6"), ("nan", "returned float nan")]
)
def test_a_reward_that_fails_names_itself_and_the_sample(own: Path, function: str, told: str) -> None:
    pool = pool_of(own, CustomConfig(function=f"own_rewards:{function}", name="mine"))

    async def test() -> None:
        with pytest.raises(RewardError, match=rf"reward 'mine', row 'row-7', sample 1: {told}"):
            await scores(pool, [group(7, "good", "bad")])

    run(pool, test)


def test_samples_may_be_skipped_up_to_a_number_and_are_never_scored_zero(own: Path) -> None:
    reward = CustomConfig(function="own_rewards:picky", name="mine")
    pool = pool_of(own, reward, max_skipped_samples=3)

    async def test() -> None:
        found = await scores(pool, [group(1, "good", "bad", "fine"), group(2, "bad", "too bad")])
        assert [[s.skipped for s in scored.scores] for scored in found] == [[None, "mine", None], ["mine", "mine"]]
        assert pool.num_skipped == 3
        with pytest.raises(RewardError, match=r"4 samples were skipped.*max_skipped_samples \(3\)"):
            await scores(pool, [group(3, "bad")])

    run(pool, test)


def test_a_killed_scorer_is_started_again_and_its_group_scored_once(own: Path) -> None:
    marker = own / "marker"
    pool = pool_of(own, CustomConfig(function="own_rewards:sleepy", params={"marker": str(marker)}))

    async def test() -> None:
        asked = asyncio.ensure_future(scores(pool, [group(1, "a", "b")]))
        while not marker.exists() or not marker.read_text():
            await asyncio.sleep(0.02)
        kill(int(marker.read_text().split()[0]))
        (found,) = await asked
        assert [score.total for score in found.scores] == [1.0, 1.0]
        pids = marker.read_text().split()
        assert len(pids) == 3  # one sample before it died, two after
        assert len(set(pids)) == 2

    run(pool, test)


def test_a_reward_that_never_ends_passes_its_deadline(own: Path) -> None:
    marker = own / "marker"
    reward = CustomConfig(function="own_rewards:sleepy", params={"marker": str(marker)})
    pool = pool_of(own, reward, rollout={"request_deadline_s": 1.0})

    async def test() -> None:
        with pytest.raises(DeadlineError, match=r"scorer 0 did not finish 'score' within 1 s"):
            await scores(pool, [group(1, "a")])

    run(pool, test)


def reward_model_folder(tiny_model: Path, folder: Path) -> Path:
    """An untrained reward model as a stage leaves it."""
    classifier = load_classifier(tiny_model, attention="dense", seed=1)
    with_padding(tokenizer := load_tokenizer(tiny_model), classifier)
    classifier.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    RewardFacts(mean=0.01, std=0.02).write(folder)
    return folder


def test_reward_models_that_are_killed_come_back_and_no_score_is_lost(own: Path, tiny_model: Path) -> None:
    config = RewardModelConfig(model=str(reward_model_folder(tiny_model, own / "model")), num_actors=2)
    groups = [group(k, f"text {k}", "word " * (1 + k % 9)) for k in range(300)]
    alone = RewardModelReward.from_config(config)
    expected = [alone(samples_of(one)) for one in groups]
    pool = pool_of(own, config, LengthConfig(unit="words", min=1, weight=0.0))

    async def test() -> None:
        (served,) = pool._served
        assert isinstance(served, ModelPool)
        actors = [hand.actor for hand in served.crew.hands]
        pids = [await actor.__ray_call__.remote(lambda _: os.getpid()) for actor in actors]
        asked = asyncio.ensure_future(scores(pool, groups))
        await asyncio.sleep(0.01)  # all are asked for, few are scored
        assert not asked.done()
        for pid in pids:
            kill(pid)
        found = await asked
        back = [await actor.__ray_call__.remote(lambda _: os.getpid()) for actor in actors]
        assert not set(back) & set(pids)
        assert [one.group.prompt.row.id for one in found] == [one.prompt.row.id for one in groups]
        for one, values in zip(found, expected, strict=True):
            assert [score.total for score in one.scores] == pytest.approx(values, abs=1e-4)

    run(pool, test)


def test_scorers_and_reward_models_join_and_leave_while_they_score(own: Path, tiny_model: Path) -> None:
    config = RewardModelConfig(name="taste", model=str(reward_model_folder(tiny_model, own / "model")))
    groups = [group(k, f"text {k}", "word " * (1 + k % 9)) for k in range(60)]
    alone = RewardModelReward.from_config(config)
    expected = [alone(samples_of(one)) for one in groups]
    pool = pool_of(own, config)
    TOLD.clear()

    async def settled(size: int) -> None:
        while [actor["state"] for actor in pool.actors()] != ["healthy"] * (2 * size):
            await asyncio.sleep(0.05)

    async def test() -> None:
        assert sorted(pool.resizable()) == ["reward", "scorers", "taste"]
        for size in (2, 1):
            asked = asyncio.ensure_future(scores(pool, groups))
            for crew in (pool.resizable()["scorers"], pool.resizable()["reward"]):
                crew.resize(size)
                assert crew.size == size
            for one, values in zip(await asked, expected, strict=True):
                assert [score.total for score in one.scores] == pytest.approx(values, abs=1e-4)
            await asyncio.wait_for(settled(size), 60.0)

    run(pool, test)
    assert sorted(TOLD[:2]) == ["reward model 'taste' 1 joined", "scorer 1 joined"]
    assert sorted(TOLD[2:]) == ["reward model 'taste' 1 left", "scorer 1 left"]
