"""The figures side by side, as a person reads them."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def show(record: dict[str, Any], console: Console) -> None:
    """Print every measurement that the record holds."""
    table = Table(title=f"{record['hardware']['cpu']}, {record['hardware']['cores']:g} cores, {record['date']}")
    for column in ("measurement", "rlft", "against", "ratio"):
        table.add_column(column, justify="left" if column == "measurement" else "right")
    figures = record["figures"]
    for name, rows in (
        ("whole_step", whole_step_rows),
        ("packing", packing_rows),
        ("lag", lag_rows),
        ("sync", sync_rows),
        ("coordination", coordination_rows),
    ):
        if name in figures:
            for row in rows(figures[name]):
                table.add_row(*row)
            table.add_section()
    console.print(table)


Row = tuple[str, str, str, str]


def whole_step_rows(found: dict[str, Any]) -> list[Row]:
    """Seconds a step and samples a second of both sides."""
    ours, peer = found["ours"], found.get("peer")
    if peer is None:
        return [
            ("whole PPO step, s", f"{ours['step_s']:.2f}", "peer not run", ""),
            ("samples/s", f"{ours['samples_per_s']:.2f}", "", ""),
        ]
    name = f"trl {peer['versions']['trl']}" + (f", reused from {peer['reused_from']}" if "reused_from" in peer else "")
    faster = ours["samples_per_s"] / peer["samples_per_s"]
    return [
        ("whole PPO step, s", f"{ours['step_s']:.2f}", f"{peer['step_s']:.1f} ({name})", f"{faster:.1f}x"),
        ("samples/s", f"{ours['samples_per_s']:.2f}", f"{peer['samples_per_s']:.3f}", f"{faster:.1f}x"),
    ]


def packing_rows(found: list[dict[str, Any]]) -> list[Row]:
    """Packed against padded updates."""
    rows: list[Row] = []
    for shape in found:
        what = f"learner's update, s: {shape['shape']}, prompt {shape['prompt_tokens']:.0f}"
        rows.append((what, f"{shape['packed_s']:.2f}", f"{shape['padded_s']:.2f} (padded)", f"{shape['speedup']:.1f}x"))
        differences = f"{shape['fp32_difference_max']:.1e} / {shape['bf16_difference_mean']:.1e}"
        rows.append(("  log-prob difference, nats: fp32 max / bf16 mean", differences, "", ""))
    return rows


def lag_rows(found: dict[str, Any]) -> list[Row]:
    """With and without lag."""
    against = f"{found['lag_0_s']:.2f} (max_lag 0)"
    return [
        ("step with max_lag 1, s", f"{found['lag_1_s']:.2f}", against, f"{found['speedup']:.2f}x"),
        (
            "  reached share of the possible overlap",
            f"{found['reached_share']:.0%}",
            f"bound {found['bound_s']:.2f} s",
            "",
        ),
    ]


def sync_rows(found: dict[str, Any]) -> list[Row]:
    """Weight sync against a memory copy."""
    parts = f"{found['sync_s']:.3f} ({found['publish_s']:.3f} + {found['load_s']:.3f})"
    what = f"weight sync, s: publish + load, {found['bytes'] / 1e6:.0f} MB"
    return [(what, parts, f"{found['copy_s']:.3f} (copy)", f"{found['times_a_copy']:.1f}x")]


def coordination_rows(found: dict[str, Any]) -> list[Row]:
    """Shares of a step."""
    return [
        ("share of a step in which nobody works", f"{found['idle_share']:.1%}", "aim 3 %", ""),
        ("  the same, weight sync counted in", f"{found['not_computing_share']:.1%}", "", ""),
    ]
