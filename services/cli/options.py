"""Options that several commands have, so that they are called and explained alike. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunsDir = Annotated[Path, typer.Option("--runs-dir", envvar="RLFT_RUNS_DIR", help="Folder that holds the runs.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file such as recipes/quickstart.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one value of the recipe, e.g. stages.ppo.num_steps=20. Repeatable."
    ),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")]
Host = Annotated[str, typer.Option("--host", help="Address to listen on; others than 127.0.0.1 need keys.")]
KeysFile = Annotated[
    Path | None, typer.Option("--keys", help="File with entries of `rlft key`; default: the variable RLFT_API_KEYS.")
]


def run_folder(run: Path, runs_dir: Path) -> Path:
    """A folder by its path, or by its name in `runs_dir`."""
    return run if run.is_dir() or len(run.parts) > 1 else runs_dir / run
