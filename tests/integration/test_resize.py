"""Engines that join and leave while prompts are answered: nothing is lost, nothing is asked twice, nobody waits for them."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
import ray

from services.rollout.fleet import Fleet
from tests.integration.support import kill
from tests.integration.test_fleet import Script, answers, fleet_of, prompts, publication, run, until

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("cluster")]


def healthy(fleet: Fleet, *names: str) -> bool:
    return fleet.states() == dict.fromkeys(names, "healthy")


def test_newcomers_get_the_newest_weights_and_then_prompts() -> None:
    told: list[str] = []

    async def test(fleet: Fleet) -> None:
        await fleet.load(publication(4))
        fleet.resize(3)
        assert fleet.size == 3
        assert fleet.states()["engine-1"] == "starting"
        first = await answers(fleet, prompts(2))  # nobody waits for the newcomers
        assert {group.engine for group in first} == {"engine-0"}
        await until(lambda: healthy(fleet, "engine-0", "engine-1", "engine-2"))
        assert [found["version"] for found in await fleet.info()] == [4, 4, 4]
        groups = await answers(fleet, prompts(6))
        assert Counter(group.engine for group in groups) == {"engine-0": 2, "engine-1": 2, "engine-2": 2}
        assert fleet.num_restarts == 0

    run(fleet_of(1, told=told), test)
    assert sorted(note.split(" after")[0] for note in told) == ["engine engine-1 joined", "engine engine-2 joined"]


def test_leavers_answer_what_they_were_asked_and_nothing_is_asked_again() -> None:
    told: list[str] = []

    async def test(fleet: Fleet) -> None:
        await fleet.load(publication(1))
        asked = asyncio.ensure_future(answers(fleet, prompts(6)))
        await asyncio.sleep(0.3)  # every step takes longer
        fleet.resize(1)
        assert fleet.states() == {"engine-0": "healthy", "engine-1": "leaving", "engine-2": "leaving"}
        assert fleet.size == 1
        groups = await asked
        assert [group.prompt.row.id for group in groups] == list("012345")
        assert Counter(group.engine for group in groups) == {"engine-0": 2, "engine-1": 2, "engine-2": 2}
        await until(lambda: healthy(fleet, "engine-0"))
        assert {group.engine for group in await answers(fleet, prompts(2))} == {"engine-0"}

    run(fleet_of(3, lambda name, life: {"step_s": 1.0}, told=told), test)
    assert sorted(told) == ["engine engine-1 left", "engine engine-2 left"]


def test_what_a_leaver_cannot_answer_any_more_is_asked_elsewhere() -> None:
    told: list[str] = []

    async def test(fleet: Fleet) -> None:
        await fleet.load(publication(1))
        pids = {found["name"]: found["pid"] for found in await fleet.info()}
        asked = asyncio.ensure_future(answers(fleet, prompts(4)))
        await asyncio.sleep(0.3)
        fleet.resize(1)
        kill(pids["engine-1"])
        groups = await asked
        assert [group.prompt.row.id for group in groups] == list("0123")
        assert {group.engine for group in groups} == {"engine-0"}
        await until(lambda: healthy(fleet, "engine-0"))
        assert fleet.num_restarts == 0  # nobody starts again who is not wanted

    run(fleet_of(2, lambda name, life: {"step_s": 1.0}, told=told), test)
    assert "engine engine-1, which was leaving, died in 'generate'" in told[0]
    assert told[-1] == "engine engine-1 left"


def test_a_newcomer_that_leaves_before_it_started_is_gone_and_names_are_not_used_again() -> None:
    async def test(fleet: Fleet) -> None:
        await fleet.load(publication(1))
        fleet.resize(3)
        fleet.resize(1)
        await until(lambda: healthy(fleet, "engine-0"))
        fleet.resize(2)
        await until(lambda: healthy(fleet, "engine-0", "engine-3"))

    run(fleet_of(1), test)


def test_a_newcomer_that_cannot_start_or_disagrees_is_given_up_and_the_rest_goes_on() -> None:
    told: list[str] = []
    script: Script = lambda name, life: (  # noqa: E731
        {"kind": "no such engine"} if name == "engine-1" else {"probe_logprob": -3.0 if name == "engine-2" else -1.0}
    )

    async def test(fleet: Fleet) -> None:
        await fleet.load(publication(1))
        fleet.resize(3)
        await until(lambda: healthy(fleet, "engine-0"))
        assert len(await answers(fleet, prompts(2))) == 2

    run(fleet_of(1, script, told=told), test)
    assert sorted(note.split(":")[0] for note in told) == [
        "engine engine-1 was asked for and is given up",
        "engine engine-2 was asked for and is given up",
    ]
    assert any("no such engine" in note for note in told)
    assert any("2.0000 nats" in note for note in told)


def test_engines_come_and_go_all_the_time_and_every_prompt_is_answered_once() -> None:
    async def test(fleet: Fleet) -> None:
        for step, size in enumerate((1, 3, 2, 4, 1, 2)):
            await fleet.load(publication(step))
            asked = asyncio.ensure_future(answers(fleet, prompts(5)))
            await asyncio.sleep(0.05)
            fleet.resize(size)
            groups = await asked
            assert [group.prompt.row.id for group in groups] == list("01234")
            assert {int(v) for group in groups for c in group.completions for v in c.versions} == {step}
        await until(lambda: len(fleet.states()) == 2 and set(fleet.states().values()) == {"healthy"})
        assert fleet.num_restarts == 0

    run(fleet_of(2, lambda name, life: {"step_s": 0.1}), test)


def test_an_engine_that_left_gives_back_what_it_held() -> None:
    async def test(fleet: Fleet) -> None:
        await fleet.load(publication(1))
        free = ray.available_resources()["CPU"]
        fleet.resize(3)
        await until(lambda: len([s for s in fleet.states().values() if s == "healthy"]) == 3)
        fleet.resize(1)
        await until(lambda: healthy(fleet, "engine-0"))
        await until(lambda: abs(ray.available_resources()["CPU"] - free) < 1e-6)

    run(fleet_of(1), test)
