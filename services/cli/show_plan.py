"""The plan of a run for people: what each stage does, which processes it runs, and what they take.

Prints to a Rich console, which leaves out colour where the output is no terminal; it decides and checks nothing.
"""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlft_core.plan import Plan, StagePlan
from rlft_core.plan.stages import sources_text

GIB = 1024**3
_PLAIN_WIDTH = 120


def plan_console() -> Console:
    """A console for plans: as wide as the terminal; in a file or pipe wide enough that no row is broken."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH)


def show_plan(plan: Plan, console: Console) -> None:
    """Print the model, the rows, the stages, the processes, and what is worth knowing."""
    parameters = f", {plan.num_parameters / 1e6:,.0f} M parameters" if plan.num_parameters else ""
    console.print(Text.assemble(("Run    ", "dim"), (plan.name, "bold")))
    console.print(Text.assemble(("Model  ", "dim"), f"{plan.model}{parameters}, {plan.dtype}"))
    console.print(Text.assemble(("Rows   ", "dim"), ", ".join(_side(plan, side) for side in plan.num_rows)))
    console.print()
    console.print(_stages(plan))
    console.print(_processes(plan))
    available = plan.available
    console.print(
        f"This machine: {available.num_cpus:g} CPUs, {available.num_gpus} GPUs, {_gib(available.memory_bytes)} of "
        f"memory and {_gib(available.disk_free_bytes)} of disk free.",
        soft_wrap=True,
    )
    if plan.disk_bytes is not None:
        console.print(f"All stages together leave about {_gib(plan.disk_bytes)} on disk.", soft_wrap=True)
    for note in plan.notes:
        console.print(Text(f"note: {note}", style="dim"), soft_wrap=True)
    for warning in plan.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)


def _side(plan: Plan, side: str) -> str:
    told = f"{plan.num_rows[side]:,} {side}"
    lengths = plan.prompt_tokens.get(side)
    if lengths is None:
        return told
    skipped = f", {lengths.num_skipped} too long and left out" if lengths.num_skipped else ""
    return f"{told} (prompts of {lengths.mean:.0f} tokens, longest {lengths.longest}{skipped})"


def _stages(plan: Plan) -> Table:
    table = _table()
    for head in ("stage", "type", "starts from"):
        table.add_column(head)
    for head in ("steps", "rows", "samples", "updates"):
        table.add_column(head, justify="right", no_wrap=True)
    for stage in plan.stages:
        counts = (stage.num_steps, stage.num_rows, stage.num_samples, stage.num_updates)
        table.add_row(stage.name, stage.type, sources_text(stage), *(f"{count:,}" for count in counts))
    return table


def _processes(plan: Plan) -> Table:
    table = _table()
    for head in ("stage", "processes"):
        table.add_column(head)
    for head in ("CPUs each", "GPUs each", "memory each"):
        table.add_column(head, justify="right", no_wrap=True)
    for stage in plan.stages:
        for index, actor in enumerate(stage.actors):
            name = stage.name if index == 0 else ""
            memory = _gib(actor.memory_bytes) + (" (GPU)" if actor.num_gpus and actor.memory_bytes is not None else "")
            told = (f"{actor.num_cpus:g}", f"{actor.num_gpus:g}", memory)
            table.add_row(name, f"{actor.count} x {actor.role}", *told)
        if len(stage.actors) > 1 or any(actor.count > 1 for actor in stage.actors):
            table.add_row("", "together", *_sum(stage), style="dim")
    return table


def _sum(stage: StagePlan) -> tuple[str, str, str]:
    memory = "" if all(actor.num_gpus for actor in stage.actors) else _gib(stage.memory_bytes)
    return f"{stage.num_cpus:g}", f"{stage.num_gpus:g}", memory


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")


def _gib(num_bytes: int | None) -> str:
    return "not known" if num_bytes is None else f"{num_bytes / GIB:.1f} GiB"
