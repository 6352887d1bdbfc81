"""The desk of a run: what it does when it is asked to stop or to scale, and what it refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest

from rlft_core.errors import RunStopped, UserError
from services.control.desk import Desk, Hooks
from services.control.requests import FOLDER, ask


def attended(
    folder: Path, hooks: Hooks | None, test: Callable[[Desk, asyncio.Task[None]], Coroutine[Any, Any, None]]
) -> None:
    async def whole() -> None:
        desk = Desk(folder)
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
    desk = Desk(tmp_path)
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
    desk = Desk(tmp_path, stopping=True)
    with pytest.raises(RunStopped, match=r"stopped before evaluate"):
        desk.between(before="evaluate")
