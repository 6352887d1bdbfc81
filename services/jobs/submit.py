"""Hand a recipe to a cluster as a job, and start a job again that stopped.

here: recipe, files it names, modules ──▶ job's working directory ──▶ `rlft run` on the cluster ──▶ RUNS_DIR/NAME
                                                                            └ a copy stays in RUNS_DIR/NAME/source
"""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlft_core.config import Recipe
from rlft_core.errors import ConfigError
from services.jobs.client import COMMAND, CPUS, MEMORY, RUN, RUNS_DIR, Cluster, RunJob
from services.jobs.package import RECIPE, pack

SOURCE = "source"
"""Folder of a run with what its job was given, from which it can be started again."""
RUNS_VARIABLE = "RLFT_RUNS_DIR"
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asks for. `secrets`: names of variables that the cluster's nodes must have; `variables`: names and values;
    `num_cpus` and `memory_bytes` are reserved for the run's coordinator, 0 lets Ray put it on the head node."""

    recipe_file: Path
    recipe: Recipe
    overrides: Sequence[str]
    runs_dir: str
    secrets: Sequence[str] = ()
    variables: Mapping[str, str] | None = None
    num_cpus: float = 0.0
    memory_bytes: int = 0


def submit(cluster: Cluster, request: Request, base_dir: Path) -> RunJob:
    """Package and hand in. Raises ConfigError when the run's name is taken or something cannot travel."""
    name = request.recipe.name
    if taken := cluster.jobs(name):
        last = taken[-1]
        out = f"`rlft resume {name}` goes on with it" if last.ended else f"`rlft stop {name}` ends it"
        raise ConfigError(
            f"the cluster has a run '{name}' already ({last.id}, {last.state}): {out}; or give this one a --name"
        )
    command = run_command(request)
    with tempfile.TemporaryDirectory(prefix="rlft-job-") as folder:
        pack(request.recipe_file, request.recipe, base_dir, Path(folder))
        metadata = {
            RUN: name,
            RUNS_DIR: request.runs_dir,
            COMMAND: command,
            CPUS: str(request.num_cpus),
            MEMORY: str(request.memory_bytes),
        }
        environment = {"working_dir": folder, "env_vars": dict(request.variables or {})}
        return _handed_in(cluster, metadata, command, 1, environment)


def resume(cluster: Cluster, name: str) -> RunJob:
    """Start a run again that ended before it was done, from what it was given. Raises ConfigError while it is at work."""
    last = cluster.newest(name)
    if not last.ended:
        raise ConfigError(f"the run '{name}' is at work ({last.id}, {last.state}); there is nothing to resume")
    runs_dir, command = last.metadata[RUNS_DIR], last.metadata[COMMAND]
    before = cluster.details(last.id)
    folder = shlex.quote(runs_dir) if runs_dir else f'"${RUNS_VARIABLE}"'
    entrypoint = f"cd {folder}/{name}/{SOURCE} && {command}"
    environment = {"env_vars": dict((before.runtime_env or {}).get("env_vars", {}))}
    return _handed_in(cluster, last.metadata, entrypoint, last.attempt + 1, environment)


def run_command(request: Request) -> str:
    """How the run is started on the cluster, in the folder that travelled."""
    words = ["rlft", "run", RECIPE, "--name", request.recipe.name, "--as-job"]
    words += ["--runs-dir", request.runs_dir] if request.runs_dir else []
    for override in request.overrides:
        words += ["--set", override]
    for name in request.secrets:
        words += ["--require-env", name]
    return shlex.join(words)


def checked_runs_dir(given: str | None) -> str:
    """Where the cluster keeps runs; empty: where its nodes say, in RLFT_RUNS_DIR. Raises ConfigError for a relative path."""
    if given is not None and not Path(given).is_absolute():
        raise ConfigError(f"--runs-dir {given}: an absolute path is wanted, because a job has a folder of its own")
    return given or ""


def runs_dir_of_job(runs_dir: Path) -> Path:
    """The folder of runs, as the job finds it on the cluster. Raises ConfigError when nobody said where it is."""
    if not runs_dir.is_absolute():
        raise ConfigError(
            f"the cluster's nodes do not say where runs go: set {RUNS_VARIABLE} there to a folder that they all share, or give "
            "--runs-dir to `rlft submit`"
        )
    return runs_dir


def parse_variables(given: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Names (secrets, which must be on the cluster) and NAME=VALUE pairs. Raises ConfigError for a secret with its value."""
    names, values = [], {}
    for entry in given:
        name, equals, value = entry.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ConfigError(f"--env {name}: a variable's name has letters, digits and '_'")
        if not equals:
            names.append(name)
        elif _SECRET.search(name):
            raise ConfigError(
                f"--env {name}=...: whoever sees the cluster's jobs would see it. Set {name} on the cluster's nodes, from a "
                f"secret, and say --env {name}: the run then checks that it is there"
            )
        else:
            values[name] = value
    return names, values


def keep_source(here: Path, run: Path) -> None:
    """Leave what the job was given in the run's folder, so that it can be started again when the cluster has dropped it."""
    target = run / SOURCE
    if here.resolve() == target.resolve():
        return
    aside = run / f".{SOURCE}.new"
    shutil.rmtree(aside, ignore_errors=True)
    run.mkdir(parents=True, exist_ok=True)
    shutil.copytree(here, aside, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)


def _handed_in(
    cluster: Cluster, metadata: Mapping[str, str], entrypoint: str, attempt: int, environment: Mapping[str, object]
) -> RunJob:
    cluster.submit(
        f"rlft-{metadata[RUN]}-{attempt}",
        entrypoint,
        runtime_env=dict(environment),
        metadata=dict(metadata),
        entrypoint_num_cpus=float(metadata[CPUS]),
        entrypoint_memory=int(metadata[MEMORY]),
    )
    return cluster.newest(metadata[RUN])
