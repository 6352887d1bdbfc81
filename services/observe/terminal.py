"""What a run says while it goes: a live bar on a terminal, one plain line for each step in a log file.

Both show step, reward, KL (or loss), tokens/s, seconds per step and the time left. Writes no file.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from services.observe.wording import (
    MINUS,
    Wording,
    clock_time,
    duration,
    interval,
    is_detail,
    main_pairs,
    ordered_pairs,
    pair_label,
    printable,
    signed_interval,
    system_label,
    verdict,
    wording,
)

Estimates = Mapping[str, Mapping[str, float]]

#: (metric, label, format, width of the number): the columns of a step line, when the row has them.
COLUMNS = (
    ("reward/mean", "reward", "{:.4f}", 8),
    ("kl/mean", "kl", "{:.4f}", 8),
    ("loss/mean", "loss", "{:.4f}", 8),
    ("tokens/per_second", "tok/s", "{:,.0f}", 7),
    ("time/step_s", "s/step", "{:.2f}", 6),
)
_PAIRS_ABREAST = 3  # more would not fit on a line
_RECENT_STEPS = 20  # the time left is told from the mean of so many: early steps are slower than the rest


class Terminal:
    """Writes to `stream` (default: standard output); live only when that is a terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty()
        self._console = Console(file=self._stream, highlight=False)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._stage, self._num_steps = "", 0
        self._columns: tuple[tuple[str, str, str, int], ...] = ()
        self._recent: deque[float] = deque(maxlen=_RECENT_STEPS)

    def stage(self, name: str, num_steps: int | None = None) -> None:
        """Announce a stage; with `num_steps`, its steps will follow."""
        self.end_stage()
        self._stage, self._num_steps = name, num_steps or 0
        self._recent.clear()
        self._columns = ()
        steps = f", {num_steps} steps" if num_steps else ""
        if not self._live:
            self._say(f"== stage {name}{steps} ==")
            return
        self._console.rule(Text(f"{name}{steps}", style="bold"), align="left", style="dim")
        if num_steps:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.completed:.0f}/{task.total:.0f}  {task.fields[told]}", markup=False),
            )
            self._progress = Progress(*columns, console=self._console, refresh_per_second=2)
            self._task = self._progress.add_task(name, total=num_steps, told="")
            self._progress.start()

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell of step `step` (from 0), now done."""
        self._recent.append(metrics.get("time/step_s", 0.0))
        left = (self._num_steps - step - 1) * sum(self._recent) / len(self._recent)
        eta = clock_time(max(left, 0.0)) if self._num_steps else "?"
        # The first step decides the columns of its stage, so that the lines of a log file stay aligned.
        self._columns = self._columns or tuple(column for column in COLUMNS if column[0] in metrics)
        cells = [
            (label, form.format(metrics[name]) if name in metrics else "-", width)
            for name, label, form, width in self._columns
        ]
        if self._progress is not None:
            told = "  ".join([*(f"{label} {number}" for label, number, _ in cells), f"eta {eta}"])
            self._progress.update(self._task, completed=step + 1, told=told)
            return
        total = str(self._num_steps or "?")
        numbers = "  ".join(f"{label} {number:>{width}}" for label, number, width in cells)
        self._say(f"{self._stage}  step {step + 1:>{len(total)}}/{total}  {numbers}  eta {eta:>7}")

    def end_stage(self, seconds: float | None = None) -> None:
        """Close the bar; with `seconds`, say how long the stage took."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        if seconds is not None:
            self._say(f"{self._stage}: done in {duration(seconds)}")

    def warn(self, text: str) -> None:
        """A warning on a line of its own, above a live bar."""
        if self._live:
            self._console.print(Text(f"warning: {printable(text)}", style="yellow"))
        else:
            self._say(f"warning: {text}")

    def line(self, text: str) -> None:
        """One plain line, written at once."""
        self._say(text)

    def _say(self, text: str) -> None:
        if self._live:
            self._console.print(Text(printable(text)))
            return
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(printable(text).encode(encoding, "replace").decode(encoding).rstrip() + "\n")
        self._stream.flush()

    def evaluation(self, evaluation: Mapping[str, Estimates], differences: Mapping[str, Estimates]) -> None:
        """The final tables: metrics down and systems across, then metrics down and paired differences across."""
        self._table("Held-out rows: mean [95 % interval]", system_rows(evaluation))
        rows = difference_rows(evaluation, differences)
        title = "Differences on the same rows: mean [95 % interval]"
        for first in range(1, len(rows[0]), _PAIRS_ABREAST):
            self._table(title, [[row[0], *row[first : first + _PAIRS_ABREAST]] for row in rows])
            title = "More differences"

    def reward_model(self, name: str, result: Mapping[str, Any]) -> None:
        """What a reward-model stage found on held-out pairs, as it stands in the stage's result.json."""
        self._table(f"{name}: how often the reference scores higher, on held-out pairs", reward_model_rows(result))
        self._say(f"{name}: {reward_model_facts(result)}")

    def _table(self, title: str, rows: list[list[str]]) -> None:
        if self._live:
            table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
            for index, head in enumerate(rows[0]):
                table.add_column(Text(head), justify="left" if index == 0 else "right", no_wrap=index == 0)
            for row in rows[1:]:
                table.add_row(*(Text(cell, style=_style(cell)) for cell in row))
            self._console.print(table)
            return
        self._say("")
        self._say(title)
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            self._say("  " + "   ".join([row[0].ljust(widths[0]), *cells]))

    def samples(self, rows: Sequence[Mapping[str, object]], systems: Sequence[str], *, limit: int = 3) -> None:
        """`limit` rows {input, reference, outputs: {system: text}}, side by side; one under the other in a log file."""
        for row in list(rows)[:limit]:
            outputs = row.get("outputs")
            told = outputs if isinstance(outputs, Mapping) else {}
            texts = {"Reference": str(row.get("reference", ""))}
            texts |= {system_label(system): str(told.get(system, "")) for system in systems}
            asked = " ".join(printable(str(row.get("input", ""))).split())
            asked = asked if len(asked) <= 240 else asked[:239] + "\u2026"
            if self._live:
                table = Table(
                    box=box.SIMPLE_HEAD, title=Text(asked, style="italic dim"), title_justify="left", expand=True
                )
                for head in texts:
                    table.add_column(Text(head), ratio=1)
                table.add_row(*(Text(printable(text)) for text in texts.values()))
                self._console.print(table)
            else:
                self._say("")
                self._say(f"  {'Input':<10} {asked}")
                for head, text in texts.items():
                    self._say(f"  {head:<10} {' '.join(text.split())}")


def system_rows(evaluation: Mapping[str, Estimates]) -> list[list[str]]:
    """Every system's metrics as text cells, the header first. What rewards are made of is left to the report."""
    rows = [["", *map(system_label, evaluation)]]
    for metric in _metrics(evaluation):
        words = wording(metric)
        found = [estimates.get(metric) for estimates in evaluation.values()]
        rows.append([words.label, *(f"{words.value(e['mean'])} [{interval(words, e)}]" if e else "" for e in found)])
    return rows


def difference_rows(evaluation: Mapping[str, Estimates], differences: Mapping[str, Estimates]) -> list[list[str]]:
    """The main comparisons, and what each says, as text cells, the header first. The report has all pairs."""
    systems = list(evaluation)
    main = main_pairs(systems)
    pairs = {name: pair for name, pair in ordered_pairs(differences, systems).items() if pair in main}
    rows = [["", *map(pair_label, pairs.values())]]
    for metric in _metrics(evaluation):
        words = wording(metric)
        cells = [words.label]
        for name in pairs:
            estimate = differences[name].get(metric)
            told = f"{words.signed(estimate['mean'])} [{signed_interval(words, estimate)}] " if estimate else ""
            cells.append(told + (verdict(metric, estimate) if estimate else ""))
        rows.append(cells)
    return rows


def reward_model_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Each kind of bad output: how often the reference scored higher, by how much, and how many pairs were made."""
    percent = Wording("", percent=True)
    pairs: Mapping[str, Mapping[str, int]] = result.get("pairs") or {}
    made, skipped = pairs.get("made") or {}, pairs.get("skipped") or {}
    rows = [["", "Accuracy [95 % interval]", "Mean gap", "Held-out pairs", "Trained on", "Left out"]]
    for kind, found in result["kinds"].items():
        accuracy = found["accuracy"]
        rows.append(
            [
                printable(kind.replace("_", " ")),
                f"{percent.value(accuracy['mean'])} [{interval(percent, accuracy)}]",
                wording("reward_model").signed(found["gap"]),
                f"{accuracy['n']:,}",
                f"{made.get(kind, 0):,}" if made else "",
                f"{skipped.get(kind, 0):,}" if made else "",
            ]
        )
    overall = result["overall"]
    rows.append(["all, by row", f"{percent.value(overall['mean'])} [{interval(percent, overall)}]", "", "", "", ""])
    return rows


def reward_model_facts(result: Mapping[str, Any]) -> str:
    """One line: how well its probabilities are calibrated, and where the references' rewards lie."""
    calibration, positives = result["calibration"], result["positives"]
    found = (result.get("localisation") or {}).get("worse")
    tokens = (
        f"; finds edited tokens with an AUC of {found['auc']:.3f} and an average precision of {found['average_precision']:.2f} "
        f"(guessing: {found['share']:.2f})"
        if found
        else ""
    )
    return (
        f"calibration error {calibration['ece']:.3f}, Brier score {calibration['brier']:.3f}; references have a mean "
        f"reward of {positives['mean']:.3f} and a standard deviation of {positives['std']:.3f}{tokens}"
    ).replace("-", MINUS)


def _metrics(evaluation: Mapping[str, Estimates]) -> list[str]:
    names = dict.fromkeys(metric for estimates in evaluation.values() for metric in estimates)
    return [name for name in names if not is_detail(name)]


def _style(cell: str) -> str:
    if cell.endswith("better"):
        return "green"
    return "red" if cell.endswith("worse") else ""
