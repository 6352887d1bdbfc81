"""`rlft init`: a recipe for a person's data file, and what was found and chosen on the way.

Only reads, prints and writes; what is proposed is decided in `rlft_core.plan.propose`.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from rlft_core.errors import ConfigError

if TYPE_CHECKING:
    from rlft_core.plan.choose_columns import Columns
    from rlft_core.plan.inspect_rows import Table
    from rlft_core.plan.propose import KnownModel, Proposal, Wish

# A folder's name says more about the data than these.
_EMPTY_STEMS = ("train", "data", "dataset", "rows")


def init(
    data_file: Annotated[
        str,
        typer.Argument(metavar="DATA_FILE", help="JSONL, JSON, CSV, TSV or Parquet; a row has an input and an output."),
    ],
    model: Annotated[
        str, typer.Option("--model", metavar="NAME_OR_FOLDER", help="The model to tune: a folder or a hub id.")
    ] = "default",
    input_field: Annotated[
        str | None, typer.Option("--input", metavar="FIELD", help="Column that goes in, if not guessed right.")
    ] = None,
    output_field: Annotated[
        str | None, typer.Option("--output", metavar="FIELD", help="Column that should come out.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Recipe to write. Default: the data file's name, .yaml."),
    ] = None,
    instruction: Annotated[
        str | None, typer.Option("--instruction", metavar="TEXT", help="What to tell the model: the system message.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Write a recipe for a data file: imitate, learn what is bad, reinforce, compare.

    Looks at columns, lengths, model and machine. Starts nothing, and overwrites nothing without --force.
    """
    from services.cli.told import told

    with told(debug):
        from rlft_core.plan.choose_columns import choose_columns
        from rlft_core.plan.inspect_rows import read_table
        from rlft_core.plan.propose import Wish, known_model, propose, run_name
        from services.machine import facts

        target = out if out is not None else Path(f"{Path(data_file).stem}.yaml")
        _check_target(target, Path(data_file), force=force)
        wish = Wish(
            source=data_file,
            out=str(target),
            rows_file=str(target.with_name(f"{target.stem}.rows.jsonl")),
            name=name if name is not None else run_name(_telling_stem(Path(data_file))),
            model=model,
            instruction=instruction,
        )
        table = read_table(data_file)
        columns = choose_columns(table, input_field=input_field, output_field=output_field)
        found = known_model(model)
        proposal = propose(table, columns, wish, model=found, num_gpus=len(facts().gpus))
        _write(proposal, wish, force=force)
        _tell(table, columns, wish, found, proposal)


def _check_target(target: Path, data_file: Path, *, force: bool) -> None:
    """Before anything is read: a long look at the data should not end in a refusal to write."""
    if target.is_dir():
        raise ConfigError(f"--out {target} is a folder; give a file such as {target / 'my.yaml'}")
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"--out {target}: there is no folder {target.parent}; make it, or write elsewhere")
    if target.absolute() == data_file.absolute():
        raise ConfigError(f"--out {target} is the data file itself; give the recipe another name, such as my.yaml")
    if target.exists() and not force:
        raise ConfigError(f"{target} is there already; give another --out FILE, or --force to overwrite it")


def _telling_stem(path: Path) -> str:
    parent = path.absolute().parent.name
    return parent if path.stem.lower() in _EMPTY_STEMS and parent else path.stem


def _write(proposal: Proposal, wish: Wish, *, force: bool) -> None:
    rows_file = Path(wish.rows_file)
    if proposal.kept is not None:
        itself = rows_file.absolute() == Path(wish.source).absolute()
        if itself or (rows_file.exists() and not force):
            way_out = "give another --out FILE" if itself else "give another --out FILE, or --force"
            raise ConfigError(f"{rows_file}, where the usable rows would go, is there already; {way_out}")
        # Dates and the like of a Parquet file become text, which is all that a prompt could use.
        lines = (json.dumps(record.values, ensure_ascii=False, default=str) + "\n" for record in proposal.kept)
        rows_file.write_text("".join(lines), encoding="utf-8")
    Path(wish.out).write_text(proposal.text, encoding="utf-8")


def _tell(table: Table, columns: Columns, wish: Wish, model: KnownModel, proposal: Proposal) -> None:
    console = Console(highlight=False)

    def line(head: str, told: str) -> None:
        console.print(Text.assemble((f"{head:8}", "dim"), told), soft_wrap=True)

    line("Data", f"{table.path}, {proposal.num_rows:,} rows")
    line("Input", _chosen(table, columns.input, columns.input_reason, "--input"))
    line("Output", _chosen(table, columns.output, columns.output_reason, "--output"))
    if columns.others:
        line("Unused", f"{', '.join(columns.others)}: text as well; data.prompt.template can put it into the prompt")
    parameters = f", {model.size.num_parameters / 1e6:,.0f} M parameters" if model.size is not None else ""
    line("Model", f"{model.shown}{parameters}")
    for note in proposal.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
    console.print(Text(f"Wrote {wish.out}. Read it, the reasons stand beside the numbers; then:", style="green"))
    commands = {
        "check": "what it will do and take; starts nothing",
        "negatives": "the bad outputs that its reward model learns from",
        "run": "all of it",
    }
    for command, purpose in commands.items():
        console.print(
            Text.assemble(f"  rlft {command} {shlex.quote(wish.out)}", (f"  # {purpose}", "dim")), soft_wrap=True
        )


def _chosen(table: Table, name: str, reason: str, option: str) -> str:
    column = table.columns[name]
    how = "as asked" if reason == option else f"chosen {reason}; {option} FIELD takes another"
    return f"{name} ({column.mean_chars:.0f} characters on average, {column.num_distinct:,} different): {how}"
