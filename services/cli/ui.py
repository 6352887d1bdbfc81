"""`rlft ui`: serve the run viewer until it is interrupted."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from rlft_core.errors import UserError
from services.cli.options import Debug, Host, KeysFile, RunsDir
from services.cli.told import told


def ui(
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8266,
    keys: KeysFile = None,
    runs_dir: RunsDir = Path("runs"),
    debug: Debug = False,
) -> None:
    """Show runs in the browser: live curves, samples, lineage, comparisons; stop and scale them."""
    with told(debug):
        serve(host, port, keys, runs_dir)


def serve(host: str, port: int, keys: Path | None, runs_dir: Path) -> None:
    """Raises UserError for a folder, a port or keys that will not do."""
    import uvicorn

    from services.keys import read_keys
    from services.viewer.access import check_host
    from services.viewer.app import create_app

    known = read_keys(keys)
    check_host(host, known)
    if not runs_dir.is_dir():
        raise UserError(
            f"--runs-dir {runs_dir}: there is no such folder; start this where your runs are, or name their folder"
        )
    with _listening(host, port) as listener:
        typer.echo(
            f"Runs of {runs_dir.absolute()} are shown at http://{host}:{listener.getsockname()[1]}/  (Ctrl-C ends this)"
        )
        config = uvicorn.Config(
            create_app(runs_dir, known), log_level="warning", server_header=False, timeout_keep_alive=30
        )
        with suppress(KeyboardInterrupt):  # how a viewer is meant to end
            uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    """The port is taken before anything is said, so that what is said is true."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # whoever asks at once waits, and is not refused
    except OSError as error:
        listener.close()
        raise UserError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with --port"
        ) from None
    return listener
