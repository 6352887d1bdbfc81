"""`rlft submit`, `jobs`, `logs` and `resume`: runs as jobs of a Ray cluster."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlft_core.errors import RunStopped, ServiceError
from services.cli.options import Debug, Overrides, RecipeFile, RunName
from services.cli.told import told

if TYPE_CHECKING:
    from services.jobs.client import Cluster, RunJob

Address = Annotated[
    str | None,
    typer.Option(
        "--address", help="The cluster's dashboard; default: RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265."
    ),
]
_GIB = 1 << 30
_STATE_S = 60.0


def submit(
    recipe: RecipeFile,
    address: Address = None,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run.")] = None,
    runs_dir: Annotated[
        str | None,
        typer.Option("--runs-dir", help="Folder of runs on the cluster. Default: RLFT_RUNS_DIR of its nodes."),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME[=VALUE]", help="NAME: a secret that the nodes must have. Repeatable."),
    ] = None,
    cpus: Annotated[
        float, typer.Option("--cpus", min=0.0, help="CPUs for the run's coordinator; 0: on the head.")
    ] = 0.0,
    memory_gb: Annotated[float, typer.Option("--memory-gb", min=0.0, help="Memory for it, in GiB.")] = 0.0,
    follow: Annotated[bool, typer.Option("--follow", help="Print what the run prints until it ends.")] = False,
    debug: Debug = False,
) -> None:
    """Run a recipe on a Ray cluster: it goes there with the files it names and the modules beside it."""
    with told(debug):
        from rlft_core.config import load_recipe
        from rlft_core.config.load import named
        from rlft_core.data.prepare import rows_of
        from services.jobs import submit as jobs
        from services.jobs.client import Cluster

        names, values = jobs.parse_variables(env or [])
        loaded = load_recipe(recipe, named(overrides or [], name))
        rows_of(loaded.data, Path.cwd(), loaded.seed)  # what is wrong with the rows is better known before it travels
        cluster = Cluster(address)
        where = jobs.checked_runs_dir(runs_dir)
        request = jobs.Request(recipe, loaded, overrides or [], where, names, values, cpus, int(memory_gb * _GIB))
        job = jobs.submit(cluster, request, Path.cwd())
        typer.echo(f"{job.run}: handed in as {job.id}; its files go to {where or '$RLFT_RUNS_DIR'}/{job.run}")
        _next(cluster, job, follow=follow)


def resume(
    run: RunName,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="Print what the run prints until it ends.")] = False,
    debug: Debug = False,
) -> None:
    """Start a run on a cluster again that stopped or failed; it goes on from its last checkpoint."""
    with told(debug):
        from services.jobs.client import Cluster
        from services.jobs.submit import resume as resumed

        cluster = Cluster(address)
        job = resumed(cluster, run)
        typer.echo(f"{run}: handed in again as {job.id}")
        _next(cluster, job, follow=follow)


def jobs(address: Address = None, debug: Debug = False) -> None:
    """List the runs on a cluster, every attempt at each."""
    with told(debug):
        from services.jobs.client import Cluster
        from services.observe.wording import duration

        cluster = Cluster(address)
        found = cluster.jobs()
        if not found:
            typer.echo(f"no runs on the cluster at {cluster.address}; `rlft submit RECIPE` starts one")
            return
        table = Table(box=box.SIMPLE_HEAD)
        for head in ("run", "job", "state", "started", "took", "last word"):
            table.add_column(head)
        for job in reversed(found):
            began = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.start_ms / 1000)) if job.start_ms else ""
            took = duration(((job.end_ms or time.time() * 1000) - job.start_ms) / 1000) if job.start_ms else ""
            said = job.message.strip().splitlines()
            table.add_row(*map(Text, (job.run, job.id, job.state, began, took, said[-1][:80] if said else "")))
        Console(highlight=False).print(table)


def logs(
    run: RunName,
    address: Address = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run ends.")] = False,
    debug: Debug = False,
) -> None:
    """Print what a run on a cluster printed, of its newest attempt."""
    with told(debug):
        from services.jobs.client import Cluster

        cluster = Cluster(address)
        job = cluster.newest(run)
        if follow:
            asyncio.run(_follow(cluster, job.id))
        else:
            typer.echo(cluster.log(job.id), nl=False)


def _next(cluster: Cluster, job: RunJob, *, follow: bool) -> None:
    """What a person may do now; or do it."""
    if not follow:
        at = f" --address {cluster.address}"
        typer.echo(f"watch it:  rlft logs {job.run} -f{at}\nask it:    rlft status {job.run}{at}")
        return
    asyncio.run(_follow(cluster, job.id))
    end = time.monotonic() + _STATE_S
    while not (now := cluster.newest(job.run)).ended and time.monotonic() < end:
        time.sleep(0.5)
    if now.state == "STOPPED":
        raise RunStopped(f"{job.id} was stopped")
    if now.state != "SUCCEEDED":
        raise ServiceError(f"{job.id} ended as {now.state}: {now.message.strip() or 'it said no more'}")


async def _follow(cluster: Cluster, job_id: str) -> None:
    async for chunk in cluster.follow(job_id):
        typer.echo(chunk, nl=False)
