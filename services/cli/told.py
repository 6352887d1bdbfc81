"""How the command line ends: rlft's own errors become a message and an exit code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from rlft_core.errors import RlftError, RunStopped, ServiceError, UserError

FAILED, MENDABLE, INTERRUPTED = 1, 2, 130


@contextmanager
def told(debug: bool, *, interrupted: str = "Interrupted.") -> Iterator[None]:
    """Turn rlft's own errors into a message and an exit code. Errors that rlft did not foresee keep their traceback.

    `interrupted`: what Ctrl-C is answered with.
    """
    try:
        yield
    except KeyboardInterrupt:
        _say(interrupted, style="yellow")
        raise typer.Exit(INTERRUPTED) from None
    except RunStopped as stopped:
        _say(f"Stopped: {stopped}. Started again, the run goes on from there.", style="yellow")
    except RlftError as error:
        if debug:
            raise
        _say(f"Error: {error}", style="bold red" if isinstance(error, UserError) else "red")
        raise typer.Exit(MENDABLE if isinstance(error, UserError) else FAILED) from None


@contextmanager
def logs_named(folder: Path) -> Iterator[None]:
    """Say where the logs are when a part of the running system fails."""
    try:
        yield
    except ServiceError:
        ray_logs = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "session_latest", "logs")
        _say(f"Files of the run: {folder.absolute()}\nLogs of its processes: {ray_logs}", style="yellow")
        raise


def _say(text: str, *, style: str) -> None:
    Console(stderr=True, highlight=False).print(Text(text, style=style), soft_wrap=True)
