"""The command line. Heavy imports stand inside the commands, so that `rlft --help` answers at once.

    rlft init DATA_FILE  a recipe for your data file, with its reasons
    rlft run RECIPE      all stages; started again, it goes on where it stopped
    rlft check RECIPE    everything that can be known beforehand, and the plan; starts nothing
    rlft negatives RECIPE  the bad outputs that its reward model learns from, side by side
    rlft doctor          what this machine has and how to mend what is missing
    rlft report RUN      build a run's HTML report again
    rlft compare RUN ...   win rates of runs against one fixed reference, by a judge
    rlft generate RUN    answers of a run's model, the best of several by its own judgement
    rlft serve RUN ...   tuned models behind OpenAI's protocol; promote, rollback and key change what it serves, and for whom
    rlft show tokens RUN   texts with every token coloured by what it earned
    rlft status | stop | scale RUN   watch and steer a run that works, here or with --address on a cluster
    rlft submit RECIPE | jobs | logs RUN | resume RUN   runs as jobs of a Ray cluster
    rlft ui              runs in the browser
    rlft version

Exit codes: 0 done or stopped as asked, 1 something failed while running, 2 something the user can mend, 130 interrupted.

Relative paths, in a recipe as on the command line, are relative to the folder in which rlft is started, which is also
where the modules of `custom` rewards are looked for.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rlft_core.errors import ConfigError
from services.cli.init import init
from services.cli.jobs import jobs, logs, resume, submit
from services.cli.options import Debug, Overrides, RecipeFile, RunsDir, run_folder
from services.cli.serve import key_command, promote_command, rollback_command, serve_command
from services.cli.steer import scale, status, stop
from services.cli.told import logs_named, told
from services.cli.ui import ui

if TYPE_CHECKING:
    from rlft_core.config import Recipe
    from rlft_core.plan import Available

app = typer.Typer(
    name="rlft",
    help="Fine-tune language models by reinforcement learning on Ray, with vLLM rollouts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command()(init)
app.command("serve")(serve_command)
app.command("promote")(promote_command)
app.command("rollback")(rollback_command)
app.command("key")(key_command)
show_app = typer.Typer(help="Look at what a run left.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(show_app, name="show")


@app.command()
def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    runs_dir: RunsDir = Path("runs"),
    name: Annotated[str | None, typer.Option("--name", help="Name of the run; its files go to RUNS_DIR/NAME.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Put earlier results aside and do all stages again.")] = False,
    require_env: Annotated[
        list[str] | None, typer.Option("--require-env", hidden=True, help="A variable that must be set. Repeatable.")
    ] = None,
    as_job: Annotated[
        bool, typer.Option("--as-job", hidden=True, help="Keep what the job was given in the run.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run a recipe, or go on with it where it stopped.

    Relative paths are relative to the current folder. RAY_ADDRESS names the Ray cluster to join, unless the recipe
    gives cluster.address; without either, a local one is started for this run.
    """
    with told(debug, interrupted="Interrupted. Started again, the run goes on from its last checkpoint."):
        loaded = prepared_recipe(recipe, overrides or [], runs_dir, name=name)
        if missing := [name for name in require_env or [] if name not in os.environ]:
            raise ConfigError(
                f"the nodes of the cluster lack {', '.join(missing)}, which --env asked for; set them there"
            )
        if as_job:
            from services.jobs.submit import keep_source, runs_dir_of_job

            keep_source(Path.cwd(), runs_dir_of_job(runs_dir) / loaded.name)
        from rlft_core.plan import make_plan
        from services.cli.show_plan import plan_console, show_plan

        plan = make_plan(loaded, base_dir=Path.cwd(), available=available_here(runs_dir))
        show_plan(plan, plan_console())
        with logs_named(runs_dir / loaded.name):
            from services.pipeline.run import run_recipe

            run_recipe(loaded, runs_dir=runs_dir, base_dir=Path.cwd(), fresh=fresh)


@app.command()
def check(
    recipe: RecipeFile,
    overrides: Overrides = None,
    tokenizer: Annotated[
        bool, typer.Option("--tokenizer/--no-tokenizer", help="Measure prompts in tokens, which takes some seconds.")
    ] = True,
    runs_dir: RunsDir = Path("runs"),
    debug: Debug = False,
) -> None:
    """Check a recipe, its data, rewards and model, and show the plan. Starts nothing."""
    with told(debug):
        loaded = prepared_recipe(recipe, overrides or [], runs_dir)
        from rlft_core.plan import make_plan
        from services.cli.show_plan import plan_console, show_plan

        plan = make_plan(loaded, base_dir=Path.cwd(), available=available_here(runs_dir), encode=tokenizer)
        console = plan_console()
        show_plan(plan, console)
        console.print("Ready to run.", style="green")


@app.command()
def negatives(
    recipe: RecipeFile,
    overrides: Overrides = None,
    show: Annotated[int, typer.Option("--show", min=0, help="How many rows to show, spread over the data.")] = 5,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Which reward model, where the recipe has several.")
    ] = None,
    runs_dir: RunsDir = Path("runs"),
    debug: Debug = False,
) -> None:
    """Show the bad outputs that a recipe's reward model learns from, and how many each kind gives. Starts nothing."""
    with told(debug):
        loaded = prepared_recipe(recipe, overrides or [], runs_dir)
        from services.cli.negatives import show_negatives

        show_negatives(loaded, stage_name=stage, num_shown=show, base_dir=Path.cwd(), runs_dir=runs_dir)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say what this machine has and how to mend what is missing."""
    from services.doctor import diagnose, exit_code, render, to_json
    from services.machine import facts

    checks = diagnose(facts())
    if as_json:
        typer.echo(to_json(checks))
    else:
        render(checks, Console(highlight=False))
    raise typer.Exit(exit_code(checks))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or its name inside RUNS_DIR.")],
    runs_dir: RunsDir = Path("runs"),
    debug: Debug = False,
) -> None:
    """Build the HTML report of a run again from the files in its folder."""
    with told(debug):
        from services.observe.report import build_report

        typer.echo(build_report(run_folder(run, runs_dir)))


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN[:SYSTEM]...", help="Runs, and which of their systems; default: the newest."),
    ],
    judge: Annotated[
        str,
        typer.Option("--judge", help="Folder of a reward model that took no part in training, or a language model."),
    ],
    template: Annotated[
        str | None, typer.Option("--template", help="How a language model is asked: a name or a YAML file.")
    ] = None,
    reference: Annotated[
        str,
        typer.Option("--reference", help="What all are compared with: gold, a system of the first run, or RUN:SYSTEM."),
    ] = "gold",
    stage: Annotated[str | None, typer.Option("--stage", help="Evaluation to read; default: the last one.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Also write the numbers to this JSON file.")] = None,
    runs_dir: RunsDir = Path("runs"),
    debug: Debug = False,
) -> None:
    """Judge what runs wrote for the same held-out rows against one fixed reference, in both orders, with intervals."""
    with told(debug):
        from services.cli.compare import compare_runs

        compare_runs(
            runs,
            reference=reference,
            judge=judge,
            template=template,
            stage=stage,
            runs_dir=runs_dir,
            base_dir=Path.cwd(),
            out=out,
        )


@app.command("generate")
def generate_command(
    run: Annotated[
        str, typer.Argument(metavar="RUN[:STAGE]", help="A run, and which stage's model; default: the last.")
    ],
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="What to answer; repeatable. Default: the first test rows.")
    ] = None,
    best_of: Annotated[int, typer.Option("--best-of", min=1, help="Answers to draw; the best is found by --by.")] = 1,
    by: Annotated[
        str,
        typer.Option(
            "--by", help="Who finds the best: `tournament`, or a reward model: a stage of RUN, or its folder."
        ),
    ] = "tournament",
    template: Annotated[
        str | None,
        typer.Option(
            "--template", help="How the model is asked to judge: a name or a YAML file. Default: as it learned to."
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0.0, help="Default: 0, or 1 with --best-of.")
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer.")] = 64,
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many test rows.")] = 5,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed draws other answers.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Also write the answers to this JSONL file.")] = None,
    runs_dir: RunsDir = Path("runs"),
    debug: Debug = False,
) -> None:
    """Answers of a run's model. With --best-of N it draws N, and picks one by a tournament that it judges itself, or by a reward
    model."""
    with told(debug):
        from services.cli.generate import Options, generate_answers

        name, _, stage = run.partition(":")
        options = Options(inputs or (), best_of, by, template, temperature, max_tokens, rows, seed, out)
        generate_answers(run_folder(Path(name), runs_dir), stage or None, options, Path.cwd())


@show_app.command("tokens")
def show_tokens_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or its name inside RUNS_DIR.")],
    stage: Annotated[str | None, typer.Option("--stage", help="Only this stage.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Most texts of each stage.")] = 8,
    runs_dir: RunsDir = Path("runs"),
    debug: Debug = False,
) -> None:
    """Print texts of a run with every token coloured by what it earned."""
    with told(debug):
        from services.cli.show import show_tokens

        show_tokens(run_folder(run, runs_dir), stage=stage, limit=limit)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        typer.echo(installed("rlft"))
    except PackageNotFoundError:
        typer.echo("unknown: rlft is not installed, only its files are there")


for command in (status, stop, scale, ui, submit, jobs, logs, resume):
    app.command()(command)


def prepared_recipe(path: Path, overrides: list[str], runs_dir: Path, *, name: str | None = None) -> Recipe:
    """Read a recipe with everything the command line, the environment and this machine add. Raises ConfigError."""
    from rlft_core.config import load_recipe
    from rlft_core.config.load import named
    from services.machine import facts
    from services.pipeline.precision import with_precision

    _log_to_stderr()
    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not search the current folder by itself
        sys.path.insert(0, here)
    recipe = with_ray_address(load_recipe(path, named(overrides, name)), os.environ)
    return with_precision(recipe, runs_dir=runs_dir, quick=facts(run_dir=runs_dir).quick_in_bfloat16)


def with_ray_address(recipe: Recipe, environ: Mapping[str, str]) -> Recipe:
    """The recipe on the cluster that RAY_ADDRESS names; one that gives `cluster.address` itself stays as it is."""
    address = environ.get("RAY_ADDRESS", "").strip()
    if not address or "address" in recipe.cluster.model_fields_set:
        return recipe
    return recipe.model_copy(update={"cluster": recipe.cluster.model_copy(update={"address": address})})


def available_here(runs_dir: Path) -> Available:
    """What this machine offers, in a container what the container may use."""
    from rlft_core.plan import Available
    from services.machine import facts

    found = facts(run_dir=runs_dir)
    disk = next(disk for disk in found.disks if disk.purpose == "runs")
    return Available(found.cores, len(found.gpus), found.memory_available_bytes, disk.free_bytes)


def _log_to_stderr() -> None:
    """Show what rlft itself logs, such as that a model is being converted; libraries keep their own settings."""
    for name in ("rlft_core", "services"):
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(logging.StreamHandler())
            logger.setLevel(logging.INFO)


def main() -> None:
    """Entry point of the `rlft` command."""
    app()


if __name__ == "__main__":
    main()
