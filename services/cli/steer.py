"""`rlft status`, `stop` and `scale`: runs that work, on this machine or, with --address, on a cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlft_core.errors import ConfigError, UserError
from services.cli.options import RunName, RunsDir
from services.cli.told import told
from services.control.requests import ask

Address = Annotated[
    str | None,
    typer.Option("--address", help="The cluster's dashboard, such as http://head:8265. Default: runs of this machine."),
]
Answer = Annotated[bool, typer.Option("--answer", hidden=True, help="For a program: one marked line of JSON.")]

_DEADLINE_S = 30.0
_THERE_S = 120.0  # a job of its own has to start there
_JOIN_S = 900.0


def status(
    run: RunName,
    address: Address = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    runs_dir: RunsDir = Path("runs"),
    answer: Answer = False,
) -> None:
    """Say what a run is doing: stage, step, reward, tokens/s, actors, time left, last error."""
    with told(debug=False):
        where = _Where(run, address, runs_dir)
        found = where.status()
        if answer:
            _answer(found)
        elif as_json:
            typer.echo(json.dumps(found, indent=1))
        else:
            _show(found, Console(highlight=False))


def stop(
    run: RunName,
    address: Address = None,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for the step that is under way.")] = False,
    runs_dir: RunsDir = Path("runs"),
    answer: Answer = False,
) -> None:
    """Stop a run after its step, with a last checkpoint; at once with --now, or when asked again. It can be started again."""
    with told(debug=False):
        said = _Where(run, address, runs_dir).ask("stop", {"now": now}, ["--now"] if now else [])
        _answer(said) if answer else typer.echo(f"{run}: {said['told']}")


def scale(
    run: RunName,
    rollouts: Annotated[int | None, typer.Option("--rollouts", help="Engines that generate.")] = None,
    reward: Annotated[int | None, typer.Option("--reward", help="Actors of the reward model.")] = None,
    judge: Annotated[int | None, typer.Option("--judge", help="Engines of the judge.")] = None,
    scorers: Annotated[int | None, typer.Option("--scorers", help="Reward actors.")] = None,
    address: Address = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until newcomers work and leavers are gone.")
    ] = True,
    runs_dir: RunsDir = Path("runs"),
    answer: Answer = False,
) -> None:
    """Add actors to a run that works, or take some away. Training does not pause, and nothing is lost."""
    with told(debug=False):
        given = {"rollouts": rollouts, "reward": reward, "judge": judge, "scorers": scorers}
        wanted = {name: size for name, size in given.items() if size is not None}
        if not wanted:
            raise ConfigError("nothing to scale: say --rollouts N, --reward N, --judge N or --scorers N")
        where = _Where(run, address, runs_dir)
        said = where.ask("scale", wanted, [word for name, size in wanted.items() for word in (f"--{name}", str(size))])
        if answer:
            _answer(said)
            return
        for name, change in said.items():
            typer.echo(f"{run}: {name} {change['from']} → {change['to']}")
        if wait:
            _await_actors(where, wanted)


@dataclass(frozen=True, slots=True)
class _Where:
    """A run, here or on a cluster."""

    run: str
    address: str | None
    runs_dir: Path

    def status(self) -> dict[str, Any]:
        if self.address is not None:
            return self._there("status", [])
        from services.observe.status import read_status

        found = read_status(self._folder())
        if found is None:
            raise UserError(f"{self.run} has no status.json: it is of an older rlft, or was never started")
        return found

    def ask(self, verb: str, arguments: Mapping[str, Any], words: list[str]) -> dict[str, Any]:
        if self.address is not None:
            return self._there(verb, words)
        from services.observe.status import AT_WORK

        state = self.status()["state"]
        if state not in AT_WORK:
            raise UserError(f"the run {self.run} is not at work: {state}")
        return ask(self._folder(), verb, dict(arguments), deadline_s=_DEADLINE_S)

    def _there(self, verb: str, words: list[str]) -> dict[str, Any]:
        from services.jobs.client import RUNS_DIR, Cluster
        from services.jobs.there import run_there

        cluster = Cluster(self.address)
        job = cluster.newest(self.run)
        if verb != "status" and job.ended:
            raise UserError(f"the run {self.run} is not at work: {job.id} is {job.state}")
        at = ["--runs-dir", job.metadata[RUNS_DIR]] if job.metadata[RUNS_DIR] else []  # else where its nodes say
        line = run_there(cluster, [verb, self.run, *words, *at], deadline_s=_THERE_S)
        found: dict[str, Any] = json.loads(line)
        return found

    def _folder(self) -> Path:
        if "/" in self.run or self.run.startswith("."):
            raise UserError(f"'{self.run}' is no name of a run; --runs-dir says where runs are")
        folder = self.runs_dir / self.run
        if not folder.is_dir():
            known = sorted(
                path.name for path in self.runs_dir.glob("*") if path.is_dir() and not path.name.startswith(".")
            )
            raise UserError(f"there is no run '{self.run}' in {self.runs_dir}; there are: {', '.join(known) or 'none'}")
        return folder


def _await_actors(where: _Where, wanted: Mapping[str, int]) -> None:
    """Wait until as many actors work as are wanted, and say so."""
    kinds = {"rollouts": "engine", "reward": "reward", "judge": "judge", "scorers": "scorer"}
    end, told_last = time.monotonic() + _JOIN_S, ""
    while time.monotonic() < end:
        found = where.status()
        states = {name: [a["state"] for a in found["actors"] if a["kind"] == kinds[name]] for name in wanted}
        line = "; ".join(f"{name}: {', '.join(those) or 'none'}" for name, those in states.items())
        if line != told_last:
            typer.echo(f"{where.run}: {line}")
            told_last = line
        if all(those == ["healthy"] * wanted[name] for name, those in states.items()):
            return
        if found["state"] not in ("running", "waiting", "starting"):
            raise UserError(f"the run {where.run} ended meanwhile: {found['state']}")
        time.sleep(1.0)
    raise UserError(
        f"not all actors were there after {_JOIN_S:g} s; `rlft status {where.run}` says what they are doing"
    )


def _answer(found: Mapping[str, Any]) -> None:
    from services.jobs.there import MARK

    typer.echo(MARK + json.dumps(found))


def _show(found: Mapping[str, Any], console: Console) -> None:
    from services.observe.wording import clock_time

    console.print(Text.assemble(("Run     ", "dim"), (found["run"], "bold"), "  ", _state(found)))
    if found["stage"]:
        steps = f", step {found['step']} of {found['num_steps']}" if found["num_steps"] else ""
        left = f", {clock_time(found['eta_s'])} left" if found["eta_s"] is not None else ""
        number = found["stages"].index(found["stage"]) + 1 if found["stage"] in found["stages"] else "?"
        console.print(
            Text.assemble(("Stage   ", "dim"), f"{found['stage']} ({number} of {len(found['stages'])}){steps}{left}")
        )
    numbers = [
        f"{label} {form.format(found['metrics'][name])}"
        for name, label, form in (
            ("reward/mean", "reward", "{:.4f}"),
            ("loss/mean", "loss", "{:.4f}"),
            ("kl/mean", "kl", "{:.4f}"),
            ("tokens/per_second", "tok/s", "{:,.0f}"),
            ("time/step_s", "s/step", "{:.2f}"),
            ("policy/lag", "staleness", "{:.2f}"),
        )
        if name in found["metrics"]
    ]
    if numbers:
        console.print(Text.assemble(("Numbers ", "dim"), "  ".join(numbers)))
    console.print(
        Text.assemble(("Process ", "dim"), f"{found['pid']} on {found['host']}, heard of {found['silent_s']:.0f} s ago")
    )
    if found["actors"]:
        table = Table(box=box.SIMPLE_HEAD)
        for head in ("actor", "kind", "state", "node", "process"):
            table.add_column(head)
        for actor in found["actors"]:
            row = (actor["name"], actor["kind"], actor["state"], actor["node"], str(actor["pid"] or ""))
            table.add_row(*map(Text, row))
        console.print(table)
    for notice in found["notices"]:
        console.print(Text(f"notice: {notice}", style="yellow"), soft_wrap=True)
    if found["error"]:
        console.print(Text(f"error: {found['error']}", style="red"), soft_wrap=True)


def _state(found: Mapping[str, Any]) -> Text:
    styles = {"running": "green", "done": "green", "failed": "red", "lost": "red"}
    return Text(found["state"], style=styles.get(found["state"], "yellow"))
