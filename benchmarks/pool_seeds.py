"""Several runs of one recipe with different seeds, side by side and together: a Markdown table for docs/evidence.

    python -m benchmarks.pool_seeds runs/last-mile-0 runs/last-mile-1 runs/last-mile-2 --stage evaluate --pair rl mle

A difference is taken row by row. "Together" averages a row over the seeds first and then resamples rows, so its interval is
that of these seeds on other rows; how far seeds differ stands beside it. Metrics are those of the stage's outputs.jsonl.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlft_core.evaluation.bootstrap import interval, paired_p_value

Values = dict[str, np.ndarray]


def values_of(run: Path, stage: str, system: str) -> tuple[list[str], Values]:
    """Row ids, and each metric of a system by row."""
    path = run / "stages" / stage / "outputs.jsonl"
    rows: list[Mapping[str, Any]] = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    metrics = list(rows[0]["metrics"][system])
    return [row["id"] for row in rows], {m: np.array([row["metrics"][system][m] for row in rows]) for m in metrics}


def differences(runs: Sequence[Path], stage: str, first: str, second: str) -> dict[str, np.ndarray]:
    """[seeds, rows] of first minus second, by metric. Raises ValueError when runs answered different rows."""
    found: dict[str, list[np.ndarray]] = {}
    ids: list[str] | None = None
    for run in runs:
        here, ours = values_of(run, stage, first)
        _, theirs = values_of(run, stage, second)
        if ids is not None and here != ids:
            raise ValueError(f"{run} answered other rows than {runs[0]}")
        ids = here
        for metric, values in ours.items():
            found.setdefault(metric, []).append(values - theirs[metric])
    return {metric: np.stack(values) for metric, values in found.items()}


def table(runs: Sequence[Path], stage: str, first: str, second: str, metrics: Sequence[str]) -> str:
    """The differences of every seed and of all together, with p by sign flips."""
    found = differences(runs, stage, first, second)
    heads = " | ".join(f"seed {json.loads((run / 'recipe.resolved.json').read_text())['seed']}" for run in runs)
    lines = [f"| {first} − {second} | {heads} | together [95 %] | p |", "|---" * (len(runs) + 3) + "|"]
    for metric in metrics or found:
        by_row = found[metric].mean(axis=0)
        whole = interval(by_row)
        seeds = " | ".join(f"{values.mean():+.3f}" for values in found[metric])
        p = paired_p_value(by_row, np.zeros_like(by_row))
        lines.append(f"| {metric} | {seeds} | {whole.mean:+.3f} [{whole.low:+.3f}, {whole.high:+.3f}] | {p:.4f} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--stage", default="evaluate")
    parser.add_argument("--pair", nargs=2, default=["rl", "mle"], metavar=("FIRST", "SECOND"))
    parser.add_argument("--metrics", nargs="*", default=[])
    options = parser.parse_args()
    print(table(options.runs, options.stage, *options.pair, options.metrics))


if __name__ == "__main__":
    main()
