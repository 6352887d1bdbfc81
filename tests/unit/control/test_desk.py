"""The desk of a run: what it does when it is asked to stop or to scale, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest

from rlft_core.errors import RunStopped, UserError
from services.control.desk import Desk, Hooks
from services.control.requests import FOLDER, ask

Told = list[str]


def attended(
    folder: Path,
    hooks: Hooks | None,
    test: Callable[[Desk, asyncio.Task[None]], Coroutine[Any, Any, None]],
    told: Told | None = None,
) -> None:
    async def whole() -> None:
        desk = Desk(folder, (told if told is not None else []).append)
        work = asyncio.ensure_future(asyncio.sleep(60.0))
        attending = asyncio.ensure_future(desk.attend(work))
        try:
            if hooks is None:
                await test(desk, work)
            else:
                with desk.stage("ppo", hooks):
                    await test(desk, work)
        finally:
            attending.cancel()
            work.cancel()

    asyncio.run(whole())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not condition():
            await asyncio.sleep(0.02)


def unwritable(folder: Path, name: str) -> Path:
    """What stands where the reply to a request is to be written aside. When it is removed, the reply can be written."""
    found = folder / FOLDER / f".{name}.reply.json.{os.getpid()}"
    found.mkdir(parents=True)
    return found


def put(folder: Path, name: str, verb: str) -> None:
    (folder / FOLDER).mkdir(exist_ok=True)
    aside = folder / FOLDER / name
    aside.write_text(json.dumps({"verb": verb, "arguments": {}}))
    aside.rename(folder / FOLDER / f"{name}.request.json")


def reply(folder: Path, name: str) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((folder / FOLDER / f"{name}.reply.json").read_text())
    return said


async def asked(folder: Path, verb: str, **arguments: Any) -> dict[str, Any]:
    return await asyncio.to_thread(ask, folder, verb, arguments, deadline_s=10.0)


def test_a_stage_with_steps_ends_after_its_step_and_at_once_when_asked_again(tmp_path: Path) -> None:
    told: list[str] = []

    async def stop() -> None:
        told.append("stop")

    async def test(desk: Desk, work: asyncio.Task[None]) -> None:
        said = await asked(tmp_path, "stop")
        assert said["told"] == "ppo ends after its step, with a checkpoint; asked again, it ends at once"
        assert desk.stopping
        assert not work.cancelling()
        assert (await asked(tmp_path, "stop"))["told"] == "it ends at once"
        assert work.cancelled() or work.cancelling()
        assert told == ["stop"]

    attended(tmp_path, Hooks(stop=stop), test)


@pytest.mark.parametrize("hooks", [None, Hooks()])
def test_what_has_no_steps_ends_at_once(tmp_path: Path, hooks: Hooks | None) -> None:
    async def test(desk: Desk, work: asyncio.Task[None]) -> None:
        assert (await asked(tmp_path, "stop"))["told"] == "it ends at once"
        assert desk.stopping

    attended(tmp_path, hooks, test)


def test_now_means_now(tmp_path: Path) -> None:
    async def stop() -> None:
        raise AssertionError("not asked")

    async def test(desk: Desk, work: asyncio.Task[None]) -> None:
        assert (await asked(tmp_path, "stop", now=True))["told"] == "it ends at once"

    attended(tmp_path, Hooks(stop=stop), test)


def test_scaling_is_the_stages_business(tmp_path: Path) -> None:
    def scale(wanted: Mapping[str, Any]) -> dict[str, Any]:
        if wanted["rollouts"] < 1:
            raise UserError("one engine is the least")
        return {"rollouts": {"from": 1, "to": wanted["rollouts"]}}

    async def test(desk: Desk, work: asyncio.Task[None]) -> None:
        assert await asked(tmp_path, "scale", rollouts=3) == {"rollouts": {"from": 1, "to": 3}}
        with pytest.raises(UserError, match=r"one engine is the least"):
            await asked(tmp_path, "scale", rollouts=0)
        with pytest.raises(UserError, match=r"knows 'stop' and 'scale', not 'dance'"):
            await asked(tmp_path, "dance")

    attended(tmp_path, Hooks(scale=scale), test)


def test_a_stage_without_engines_says_so(tmp_path: Path) -> None:
    async def test(desk: Desk, work: asyncio.Task[None]) -> None:
        with pytest.raises(UserError, match=r"nothing of stage 'ppo' can be scaled"):
            await asked(tmp_path, "scale", rollouts=2)

    attended(tmp_path, Hooks(), test)


def test_between_two_stages_a_stop_ends_the_run_and_nothing_can_be_scaled(tmp_path: Path) -> None:
    desk = Desk(tmp_path, pytest.fail)
    desk.between(before="ppo")  # nobody asked anything
    (tmp_path / FOLDER).mkdir()
    for name, verb in (("1.a", "scale"), ("2.b", "stop")):
        (tmp_path / FOLDER / f"{name}.request.json").write_text(json.dumps({"verb": verb, "arguments": {}}))
    with pytest.raises(RunStopped, match=r"stopped before ppo"):
        desk.between(before="ppo")
    said = {f.name[:3]: json.loads(f.read_text()) for f in (tmp_path / FOLDER).glob("*.reply.json")}
    assert said == {
        "1.a": {"refused": "ppo is not at work yet; ask again when it is"},
        "2.b": {"told": "it ends before ppo"},
    }


def test_a_stop_in_the_last_step_of_a_stage_holds_for_the_next_one(tmp_path: Path) -> None:
    desk = Desk(tmp_path, pytest.fail, stopping=True)
    with pytest.raises(RunStopped, match=r"stopped before evaluate"):
        desk.between(before="evaluate")


def test_a_reply_that_cannot_be_written_is_written_later_and_nothing_is_carried_out_twice(tmp_path: Path) -> None:
    told: Told = []
    done: list[str] = []

    async def stop() -> None:
        done.append("stop")

    async def test(desk: Desk, work: asyncio.Task[None]) -> None:
        blocked = unwritable(tmp_path, "1.a")
        put(tmp_path, "1.a", "stop")
        await until(lambda: bool(told))
        assert await asked(tmp_path, "scale") == {"rollouts": {"from": 1, "to": 2}}  # others are heard meanwhile
        blocked.rmdir()
        await until((tmp_path / FOLDER / "1.a.reply.json").exists)
        assert reply(tmp_path, "1.a")["told"].startswith("ppo ends after its step")
        assert not work.cancelling()

    attended(tmp_path, Hooks(stop=stop, scale=lambda wanted: {"rollouts": {"from": 1, "to": 2}}), test, told)
    assert done == ["stop"]
    assert len(told) == 1
    assert told[0].startswith("request 1.a cannot be read or answered just now: ")
    assert told[0].endswith(". It is tried again")


def test_a_request_that_cannot_be_read_keeps_no_other_from_being_answered(tmp_path: Path) -> None:
    told: Told = []

    async def test(desk: Desk, work: asyncio.Task[None]) -> None:
        unreadable = tmp_path / FOLDER / "1.a.request.json"
        unreadable.mkdir(parents=True)
        assert (await asked(tmp_path, "stop"))["told"] == "it ends at once"
        unreadable.rmdir()
        put(tmp_path, "1.a", "scale")
        await until((tmp_path / FOLDER / "1.a.reply.json").exists)

    attended(tmp_path, Hooks(), test, told)
    assert [text.split(":")[0] for text in told] == ["request 1.a cannot be read or answered just now"]


def test_what_the_stage_cannot_do_is_refused(tmp_path: Path) -> None:
    def scale(wanted: Mapping[str, Any]) -> dict[str, Any]:
        raise OSError("no space left")

    async def test(desk: Desk, work: asyncio.Task[None]) -> None:
        with pytest.raises(UserError, match=r"the run could not do it: no space left"):
            await asked(tmp_path, "scale")
        assert (await asked(tmp_path, "stop"))["told"] == "it ends at once"

    attended(tmp_path, Hooks(scale=scale), test)


def test_between_two_stages_what_cannot_be_written_stops_the_run_only_when_that_was_asked(tmp_path: Path) -> None:
    told: Told = []
    desk = Desk(tmp_path, told.append)
    blocked = unwritable(tmp_path, "1.a")
    put(tmp_path, "1.a", "scale")
    desk.between(before="ppo")
    desk.between(before="ppo")
    blocked.rmdir()
    desk.between(before="ppo")
    assert reply(tmp_path, "1.a") == {"refused": "ppo is not at work yet; ask again when it is"}
    assert len(told) == 1
    unwritable(tmp_path, "2.b")
    put(tmp_path, "2.b", "stop")
    with pytest.raises(RunStopped, match=r"stopped before ppo"):
        desk.between(before="ppo")


def test_a_folder_that_cannot_be_looked_into_is_told_once(tmp_path: Path) -> None:
    told: Told = []
    desk = Desk(tmp_path / ("x" * 300), told.append)  # a longer name than a file may have
    desk.between(before="ppo")
    desk.between(before="ppo")
    assert len(told) == 1
    assert told[0].startswith("requests to this run cannot be read or answered just now: ")
