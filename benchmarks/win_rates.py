"""Win rates of systems over several runs with different seeds, against the rows' own outputs: a table for docs/evidence.

    python -m benchmarks.win_rates runs/levels-0 runs/levels-1 --judge FOLDER --systems sequence token \
        --watched ppo_sequence ppo_token
    python -m benchmarks.win_rates runs/R-0 runs/R-1 runs/R-2 --judge FOLDER --systems offline on_policy --against start

Outcomes are averaged over seeds row by row, then rows are resampled: that tells of these trainings. "Any seed" resamples seeds
too, and its p flips the signs of whole seeds: with three of them it is never below .25. With `--against`, systems are held
against that system's answers in the same run. With `--watched`, the answers that two PPO stages gave to validation rows while
they learned are judged too, and it is said after how many samples the second one reached the final rate of the first.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rlft_core.config.online import PpoStage
from rlft_core.config.recipe import Recipe
from rlft_core.data.prepare import rows_of
from rlft_core.evaluation.bootstrap import crossed_interval, interval, paired_p_value
from rlft_core.judging.protocol import Answer, Comparison
from rlft_core.types import Row
from services.cli.compare import load_judge, read_outputs
from services.observe import jsonl

Curve = list[tuple[int, float]]


@dataclass
class Asked:
    """All comparisons of all runs, judged in one call: a judge then computes the prompt of a row once."""

    comparisons: list[Comparison] = field(default_factory=list)

    def add(
        self, rows: Mapping[str, Row], answers: Mapping[str, Answer], others: Mapping[str, Answer] | None = None
    ) -> slice:
        """Ask of each answer whether it beats the other one, or the row's own output, in the order of the ids."""
        first = len(self.comparisons)
        others = others or {i: Answer(row.output) for i, row in rows.items()}
        self.comparisons += [Comparison(rows[i], answers[i], others[i]) for i in sorted(answers)]
        return slice(first, len(self.comparisons))


def looks_of(run: Path, stage: str, asked: Asked) -> list[tuple[int, slice]]:
    """(samples seen, where its comparisons are) of every look of a stage's watch."""
    recipe = Recipe.model_validate(json.loads((run / "recipe.resolved.json").read_text(encoding="utf-8")))
    config = recipe.stage(stage)
    assert isinstance(config, PpoStage)
    rows = {row.id: row for row in rows_of(recipe.data, Path.cwd(), recipe.seed).validation}
    looks: dict[int, dict[str, Answer]] = {}
    lines: list[dict[str, Any]] = list(jsonl.read_rows(run / "stages" / stage / "watch-outputs.jsonl"))
    for line in lines:
        looks.setdefault(line["step"], {})[line["id"]] = Answer(line["output"], line["ended"])
    return [(step * config.samples_per_step, asked.add(rows, looks[step])) for step in sorted(looks)]


def samples_to(rate: float, points: Curve) -> float | None:
    """Samples after which a curve first reaches a rate, between looks in a straight line; None: never."""
    for (seen, low), (later, high) in pairwise(points):
        if low >= rate:
            return float(seen)
        if high >= rate:
            return seen + (later - seen) * (rate - low) / (high - low)
    return float(points[-1][0]) if points and points[-1][1] >= rate else None


def difference(later: np.ndarray, earlier: np.ndarray) -> dict[str, Any]:
    """Of outcomes [seeds, rows] of two systems: by row over these seeds, and over seeds too."""
    by_row, by_seed = ((later.mean(axis=axis), earlier.mean(axis=axis)) for axis in (0, 1))
    every = crossed_interval(later - earlier).as_dict() | {"p": paired_p_value(*by_seed)}
    return {**interval(by_row[0] - by_row[1]).as_dict(), "p": paired_p_value(*by_row), "any_seed": every}


def points(told: Mapping[str, Any]) -> str:
    """Two cells of a table: the bounds, and p."""
    return f"[{100 * told['low']:+.1f}, {100 * told['high']:+.1f}] | {told['p']:.3f}"


def main() -> None:
    """Print tables, and write all numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--judge", required=True)
    parser.add_argument("--systems", nargs="+", required=True)
    parser.add_argument("--against", metavar="SYSTEM")
    parser.add_argument("--watched", nargs=2, default=())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    asked = Asked()
    places: dict[str, list[slice]] = {system: [] for system in options.systems}
    looks: dict[tuple[str, str], list[tuple[int, slice]]] = {}
    for run in options.runs:
        outputs = read_outputs(run, None, Path.cwd())
        for system in options.systems:
            others = outputs.answers[options.against] if options.against else None
            places[system].append(asked.add(outputs.rows, outputs.answers[system], others))
        for stage in options.watched:
            looks[run.name, stage] = looks_of(run, stage, asked)
    found = np.array([verdict.outcome for verdict in load_judge(options.judge).compare(asked.comparisons)])
    rates = {system: np.stack([found[place] for place in where]) for system, where in places.items()}
    curves = {key: [(seen, float(found[place].mean())) for seen, place in where] for key, where in looks.items()}
    against = options.against or "the references"
    result: dict[str, Any] = {"judge": options.judge, "runs": [run.name for run in options.runs], "against": against}
    result |= {"rates": {}, "differences": {}}
    print(f"| win rate against {against} | " + " | ".join(run.name for run in options.runs) + " | together [95 %] |")
    print("|---" * (len(options.runs) + 2) + "|")
    for system, values in rates.items():
        whole = interval(values.mean(axis=0))
        result["rates"][system] = {"seeds": values.mean(axis=1).tolist(), **whole.as_dict()}
        seeds = " | ".join(f"{100 * value:.1f} %" for value in values.mean(axis=1))
        print(f"| {system} | {seeds} | {100 * whole.mean:.1f} % [{100 * whole.low:.1f}, {100 * whole.high:.1f}] |")
    print()
    print("| difference | points [95 %] | p | any seed [95 %] | p |\n|---|---|---|---|---|")
    for earlier, later in combinations(options.systems, 2):
        told = difference(rates[later], rates[earlier])
        result["differences"][f"{later} - {earlier}"] = told
        these, every = points(told), points(told["any_seed"])
        print(f"| {later} − {earlier} | {100 * told['mean']:+.1f} {these} | {every} |")
    print()
    for run in options.runs if options.watched else ():
        one, other = (curves[run.name, stage] for stage in options.watched)
        reached = samples_to(one[-1][1], other)
        result.setdefault("curves", {})[run.name] = {
            options.watched[0]: one,
            options.watched[1]: other,
            "reached": reached,
        }
        print(
            f"{run.name}: {options.watched[1]} reaches {100 * one[-1][1]:.1f} % after {reached} samples (of {one[-1][0]})"
        )
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
