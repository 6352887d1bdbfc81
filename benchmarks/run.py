"""`python -m benchmarks.run --peer-python PATH`: all measurements in one process run, as a table and as a JSON file.

    run with max_lag 0 ─▶ whole_step (ours), sync, coordination ─┐
    run with max_lag 1 ─▶ lag                                     ├─▶ table, benchmarks/results/<date>-<hardware>.json
    packing (this process)                                        │
    peer (its own process) ─▶ whole_step ─────────────────────────┘

The record is written after every measurement, so an interrupted run leaves what it has.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import machine, table, whole_step
from benchmarks import reward_model as reward
from benchmarks.coordination import coordination
from benchmarks.lag import lag
from benchmarks.measured_run import Steps
from benchmarks.measured_run import run as measured_run
from benchmarks.packing import packing
from benchmarks.settings import ROOT, Settings
from benchmarks.sync import sync
from rlft_core.models.default_model import resolve_model

RESULTS = ROOT / "benchmarks" / "results"
NAMES = ("whole_step", "packing", "lag", "sync", "coordination")
FROM_A_RUN = {"whole_step", "lag", "sync", "coordination"}


@dataclasses.dataclass(slots=True)
class Record:
    """The growing result and its file."""

    path: Path
    content: dict[str, Any]

    def add(self, name: str, figures: Any) -> None:
        """Enter one measurement and write the file."""
        self.content["figures"][name] = rounded(figures)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was asked and print the table."""
    options = parse(arguments)
    settings = settings_of(options)
    record = new_record(settings, options)
    with tempfile.TemporaryDirectory(prefix="rlft-bench-") as folder:
        measure(settings, options, record, Path(folder))
    console = Console()
    table.show(record.content, console)
    console.print(f"figures: {record.path}")


def measure(settings: Settings, options: argparse.Namespace, record: Record, folder: Path) -> None:
    """Run the measurements that `--only` names; those that share a run share it."""
    wanted = set(options.only)
    if wanted & FROM_A_RUN:
        classifier = reward.make(settings.model, folder / "reward-model")
        steps = measured_run(settings, classifier, folder / "runs", max_lag=0)
        if "sync" in wanted:
            record.add("sync", sync(steps, repeats=settings.repeats))
        if "coordination" in wanted:
            record.add("coordination", coordination(steps))
        if "lag" in wanted:
            record.add("lag", lag(steps, measured_run(settings, classifier, folder / "runs", max_lag=1)))
        if "whole_step" in wanted:
            record.add("whole_step", {"ours": whole_step.ours(steps, settings)})
    if "packing" in wanted:
        record.add("packing", packing(settings))
    if "whole_step" in wanted:
        add_peer(settings, options, record, classifier, steps, folder)


def add_peer(
    settings: Settings, options: argparse.Namespace, record: Record, classifier: Path, steps: Steps, folder: Path
) -> None:
    """The peer comes last: it takes longest."""
    if options.reuse_peer:
        found = whole_step.earlier_peer(RESULTS, settings)
        print(f"peer: not run again, figures reused from {found['reused_from']}")
    elif options.peer_python is not None:
        python = options.peer_python.absolute()
        print(f"peer: {settings.peer_steps} step(s) of TRL, some minutes each on two cores", flush=True)
        found = whole_step.peer(settings, classifier, python, folder / "peer")
    else:
        print("peer: not run; give --peer-python, or --reuse-peer for figures recorded before")
        return
    record.add("whole_step", {"ours": whole_step.ours(steps, settings), "peer": found})


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer-python", type=Path, help="interpreter of the environment that has trl")
    parser.add_argument("--reuse-peer", action="store_true", help="take the peer's figures from an earlier result")
    parser.add_argument("--peer-steps", type=int, default=1, help="steps that the peer runs (default 1)")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: a check, not a measurement")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--model", default="default", help="model folder, hub id or 'default'")
    parser.add_argument("--out", type=Path, help="result file (default: benchmarks/results/<date>-<hardware>.json)")
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace) -> Settings:
    """The sizes of this run."""
    settings = Settings(model=str(resolve_model(options.model)), peer_steps=options.peer_steps)
    if options.quick:
        return dataclasses.replace(settings, warmup_steps=1, measured_steps=2, repeats=1)
    return settings


def new_record(settings: Settings, options: argparse.Namespace) -> Record:
    """An empty record of this machine and moment."""
    hardware = machine.hardware()
    now = datetime.datetime.now(datetime.UTC)
    content = {
        "date": now.isoformat(timespec="seconds"),
        "quick": options.quick,
        "hardware": hardware,
        "versions": machine.versions(),
        "settings": {**dataclasses.asdict(settings), "model": Path(settings.model).name},
        "figures": {},
    }
    path = options.out or RESULTS / f"{now:%Y-%m-%d-%H%M}-{machine.slug(hardware)}.json"
    return Record(path, content)


def rounded(value: Any) -> Any:
    """Floats to six significant digits, throughout."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value


if __name__ == "__main__":
    main()
