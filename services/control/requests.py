"""Requests to a run that works, and its replies, as files in its folder.

    control/1764021.7f3a.request.json ─▶ the run's coordinator ─▶ control/1764021.7f3a.reply.json ─▶ both are removed

A request is written aside and renamed, so the other side never sees half of one. The folder is what all nodes share
already, for checkpoints; it needs no port, and a request outlives a coordinator that is just being started again.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlft_core.errors import DeadlineError, UserError

FOLDER = "control"
_ASK, _REPLY = ".request.json", ".reply.json"
_LOOK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Request:
    """What a run is asked to do. `id` sorts by time."""

    id: str
    verb: str
    arguments: dict[str, Any]


def ask(run: Path, verb: str, arguments: dict[str, Any], *, deadline_s: float) -> dict[str, Any]:
    """Ask a run and wait for what it says. Raises UserError with its refusal, DeadlineError when it does not answer.

    A request that nobody took in time is withdrawn: it is not carried out later, when nobody expects it any more.
    """
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    request = Request(f"{time.time_ns()}.{secrets.token_hex(4)}", verb, arguments)
    asked, reply = folder / (request.id + _ASK), folder / (request.id + _REPLY)
    _write(asked, {"verb": verb, "arguments": arguments})
    end = time.monotonic() + deadline_s
    try:
        while not reply.is_file():
            if time.monotonic() > end:
                raise DeadlineError(
                    f"the run {run.name} did not answer '{verb}' within {deadline_s:g} s; `rlft status {run.name}` says what it "
                    "is doing and when it was last heard of"
                )
            time.sleep(_LOOK_EVERY_S)
        said: dict[str, Any] = json.loads(reply.read_text(encoding="utf-8"))
    finally:
        asked.unlink(missing_ok=True)
        reply.unlink(missing_ok=True)
    if "refused" in said:
        raise UserError(said["refused"])
    return said


def _raise(name: str, error: OSError) -> None:
    raise error


def waiting(run: Path, trouble: Callable[[str, OSError], None] = _raise) -> list[Request]:
    """Requests that were not answered yet, the oldest first.

    `trouble` hears which one could not be read, or '' where the folder could not, and why; it is there the next time.
    """
    folder = run / FOLDER
    found: list[Request] = []
    try:
        files = sorted(folder.glob("*" + _ASK)) if folder.is_dir() else []
    except OSError as error:
        trouble("", error)
        return found
    for file in files:
        name = file.name.removesuffix(_ASK)
        try:
            if file.with_name(name + _REPLY).exists():
                continue
            asked = json.loads(file.read_text(encoding="utf-8"))
            found.append(Request(name, str(asked["verb"]), dict(asked["arguments"])))
        except FileNotFoundError:  # withdrawn since
            continue
        except OSError as error:
            trouble(name, error)
        except (ValueError, KeyError, TypeError):  # somebody's own hand; it is refused as a verb that there is not
            found.append(Request(name, "(not a request)", {}))
    return found


def answer(run: Path, request: Request, said: dict[str, Any]) -> None:
    """Reply to a request; nothing is left behind for one that was withdrawn."""
    folder = run / FOLDER
    if (folder / (request.id + _ASK)).exists():
        _write(folder / (request.id + _REPLY), said)


def clear(run: Path) -> None:
    """Forget what an earlier process of this run was asked."""
    folder = run / FOLDER
    for file in list(folder.iterdir()) if folder.is_dir() else []:
        file.unlink(missing_ok=True)


def _write(file: Path, content: dict[str, Any]) -> None:
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    aside.write_text(json.dumps(content), encoding="utf-8")
    aside.replace(file)
