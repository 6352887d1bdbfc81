"""One real run of the recipe (Ray, vLLM, learner, scorers) and the figures that its metrics.jsonl holds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.settings import ROOT, Settings, recipe
from services.observe.jsonl import read_rows
from services.pipeline.run import run_recipe

METRICS = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class Steps:
    """Metric rows of the measured steps of one run."""

    rows: Sequence[dict[str, float]]

    def median(self, name: str) -> float:
        """Median over the steps; 0 for a phase that never ran."""
        return statistics.median(row.get(name, 0.0) for row in self.rows)

    def mean(self, name: str) -> float:
        """Mean over the steps: what adds up to the step's mean."""
        return statistics.fmean(row.get(name, 0.0) for row in self.rows)

    def values(self, name: str) -> list[float]:
        """One number a step."""
        return [round(row.get(name, 0.0), 4) for row in self.rows]


def run(settings: Settings, reward_model: Path, folder: Path, *, max_lag: int) -> Steps:
    """Run the recipe from nothing; returns the steps after the warm-up and before the last `max_lag`."""
    where = run_recipe(recipe(settings, reward_model, max_lag=max_lag), runs_dir=folder, base_dir=ROOT, fresh=True)
    found = [numbers(row) for row in read_rows(where / METRICS)]
    return Steps(found[settings.warmup_steps : settings.warmup_steps + settings.measured_steps])


def numbers(row: dict[str, object]) -> dict[str, float]:
    """The metrics of a row, without its labels."""
    return {name: float(value) for name, value in row.items() if isinstance(value, int | float)}
