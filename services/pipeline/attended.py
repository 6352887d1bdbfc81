"""A stage at work, as the rest of the world sees it: it can be asked things, says how it is, and ends well when told to."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rlft_core.errors import RunStopped
from services.cluster.room import Turn
from services.control.desk import Desk
from services.control.requests import clear
from services.observe.status import Status

_BEAT_EVERY_S = 1.0


async def attended(work: Coroutine[Any, Any, None], desk: Desk, status: Status, turn: Turn | None = None) -> None:
    """Do the work of a stage, in its turn where there is one. Raises RunStopped when it should stop before its end.

    SIGTERM asks once; a second one ends it at once. Ctrl-C is not caught.
    """
    task = asyncio.ensure_future(work)
    beside = [asyncio.ensure_future(desk.attend(task)), asyncio.ensure_future(_beat(desk, status, turn))]
    try:
        with _terminated(desk):
            await task
    except asyncio.CancelledError:
        if not desk.stopping:
            raise
        raise RunStopped(f"{status.stage} was stopped at once") from None
    finally:
        for other in beside:
            other.cancel()
        await asyncio.gather(*beside, return_exceptions=True)


@contextmanager
def outcome(status: Status) -> Iterator[None]:
    """Write down how a run begins and how it ends."""
    clear(status.observer.run.folder)
    status.write()
    try:
        yield
    except (RunStopped, KeyboardInterrupt, SystemExit) as stopped:  # SystemExit: SIGTERM between two stages
        status.state, status.error = "stopped", str(stopped) or "interrupted"
        raise
    except BaseException as error:
        status.state, status.error = "failed", f"{type(error).__name__}: {error}"
        raise
    else:
        status.state = "done"
    finally:
        with suppress(OSError):  # a full disk has its own error, which must not be hidden by this one
            status.write()


async def _beat(desk: Desk, status: Status, turn: Turn | None) -> None:
    told = placed = False
    while True:
        status.state = "stopping" if desk.stopping else "running"
        actors = desk.hooks.actors()
        placed = placed or (bool(actors) and all(actor["state"] != "starting" for actor in actors))
        if turn is not None:
            turn.beat(placed=placed)
        try:
            status.write(actors, scalable=desk.hooks.scale is not None)
        except OSError as error:
            if not told:
                status.observer.notice(f"status.json cannot be written: {error}")
            told = True
        await asyncio.sleep(_BEAT_EVERY_S)


@contextmanager
def _terminated(desk: Desk) -> Iterator[None]:
    """SIGTERM asks the run to stop, as long as this lasts. Ray's own handler would end the process in the middle of a step."""
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
    asked: set[asyncio.Task[str]] = set()

    def ask() -> None:
        task = asyncio.ensure_future(desk.stop())
        asked.add(task)
        task.add_done_callback(asked.discard)

    try:
        loop.add_signal_handler(signal.SIGTERM, ask)
    except (ValueError, RuntimeError):  # not the main thread: whoever started it there stops it himself
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
