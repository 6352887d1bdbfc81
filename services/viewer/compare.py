"""Two runs, or two stages of one, side by side: curves over each other, evaluations, and where their recipes differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.observe import charts, wording
from services.observe.charts import Series
from services.observe.report_curves import PANELS, Figure
from services.observe.run_files import StageMetrics
from services.viewer.folders import METRICS, RECIPE, SUMMARY, NotThere, read_object, run_folder
from services.viewer.metrics import MetricsLog, MetricsStore

#: Keys of a recipe that differ between any two runs and say nothing.
_NAMES = frozenset({"name"})
ABSENT = "–"
#: Metrics that are drawn when nobody chose any.
USUAL = frozenset(metric for metric, _, _ in PANELS)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: the run, the stage whose curves are drawn, and the stages that have some."""

    run: str
    stage: str
    stages: tuple[str, ...]
    metrics: StageMetrics

    @property
    def name(self) -> str:
        return f"{self.run}:{self.stage}" if self.stage else self.run


@dataclass(frozen=True, slots=True)
class Difference:
    """A key of the recipe whose values are not the same."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """A metric of the evaluations: a cell for each (run, system), empty where it was not measured."""

    label: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """Evaluations side by side: `systems` are the columns."""

    systems: tuple[str, ...]
    lines: tuple[ScoreLine, ...]


def side_of(runs: Path, spec: str, store: MetricsStore) -> Side:
    """A side from RUN or RUN:STAGE; without a stage, the last one that has a reward, else the last. Raises NotThere."""
    name, _, stage = spec.partition(":")
    folder = run_folder(runs, name)
    log = store.log(folder / METRICS)
    if stage and stage not in log.stages:
        raise NotThere(f"'{name}' has recorded no stage '{stage[:60]}'; there are: {', '.join(log.stages) or 'none'}")
    stage = stage or default_stage(log)
    return Side(name, stage, log.stages, log.read(stage))


def default_stage(log: MetricsLog) -> str:
    """The stage that a person most likely wants to see."""
    newest = log.stages[-1] if log.stages else ""
    rewarded = [stage for stage in log.stages if "reward/mean" in log.metrics(stage)]
    return newest if newest in rewarded or not rewarded else rewarded[-1]


def shared_metrics(sides: Sequence[Side]) -> list[str]:
    """Metrics that every side has, those that everyone looks at first."""
    columns = [set(side.metrics.columns) for side in sides]
    shared = set.intersection(*columns) if columns else set()
    first = [metric for metric, _, _ in PANELS if metric in shared]
    return [*first, *sorted(shared - set(first))]


def figures_over(sides: Sequence[Side], metrics: Sequence[str], *, smoothing: float) -> list[Figure]:
    """One figure for each metric, a line for each side."""
    known = {metric: (title, unit) for metric, title, unit in PANELS}
    figures = []
    for metric in metrics:
        title, unit = known.get(metric, (metric, ""))
        series = []
        for color, side in enumerate(sides):
            steps, values = side.metrics.points(metric)
            if steps:
                series.append(Series(side.name, steps, values, color))
        if series:
            last = "  ".join(
                wording.compact(charts.smooth(one.values, times=smoothing)[-1] if smoothing else one.values[-1])
                for one in series
            )
            chart = charts.line_chart(
                series, label=f"{title}: {' and '.join(one.name for one in series)}", smoothing=smoothing
            )
            figures.append(Figure(title, unit, chart, last, tuple((one.name, one.color) for one in series)))
    return figures


def scores_of(runs: Path, names: Sequence[str]) -> Scores:
    """What the summaries say, a column for each system of each run. Metrics that one run alone has stand last."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for name in dict.fromkeys(names):
        evaluation = read_object(run_folder(runs, name) / SUMMARY).get("evaluation")
        for system, estimates in evaluation.items() if isinstance(evaluation, Mapping) else ():
            if isinstance(estimates, Mapping):
                found.append((f"{name}: {wording.system_label(str(system))}", estimates))
    metrics = dict.fromkeys(metric for _, estimates in found for metric in estimates if not wording.is_detail(metric))
    ordered = sorted(metrics, key=lambda metric: -sum(metric in estimates for _, estimates in found))
    return Scores(
        tuple(name for name, _ in found),
        tuple(
            ScoreLine(wording.wording(metric).label, tuple(_cell(metric, estimates) for _, estimates in found))
            for metric in ordered
        ),
    )


def recipe_differences(runs: Path, sides: Sequence[Side]) -> list[Difference]:
    """Keys of the resolved recipes that differ; of two stages of one run, keys of these. Stages are told apart by their names,
    lists by place."""
    recipes = [_by_name(read_object(run_folder(runs, side.run) / RECIPE)) for side in sides]
    if len({side.run for side in sides}) == 1:
        recipes = [recipe.get("stages", {}).get(side.stage, {}) for recipe, side in zip(recipes, sides, strict=True)]
    else:
        _fold_missing_stages(recipes)
    flat = [_flat(recipe) for recipe in recipes]
    keys = dict.fromkeys(key for one in flat for key in one)
    found = []
    for key in keys:
        values = tuple(one.get(key, ABSENT) for one in flat)
        if key not in _NAMES and len(set(values)) > 1:
            found.append(Difference(key, values))
    return found


def _fold_missing_stages(recipes: Sequence[dict[str, Any]]) -> None:
    """A stage that one recipe lacks is one difference, not one for each of its keys."""
    stages = [recipe.get("stages") or {} for recipe in recipes]
    everywhere = set.intersection(*(set(one) for one in stages))
    for recipe, one in zip(recipes, stages, strict=True):
        recipe["stages"] = {
            name: stage if name in everywhere else f"a stage of type {stage.get('type')}" for name, stage in one.items()
        }


def _cell(metric: str, estimates: Mapping[str, Any]) -> tuple[str, str]:
    estimate = estimates.get(metric)
    if not isinstance(estimate, Mapping) or not {"mean", "low", "high"} <= estimate.keys():
        return ("", "")
    words = wording.wording(metric)
    return words.value(estimate["mean"]), wording.interval(words, estimate)


def _by_name(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with its stages as a mapping: one stage more must not make all after it differ."""
    stages = recipe.get("stages")
    if not isinstance(stages, list):
        return dict(recipe)
    named = {str(stage.get("name", place)): stage for place, stage in enumerate(stages) if isinstance(stage, Mapping)}
    return {**recipe, "stages": named}


def _flat(value: object, prefix: str = "") -> dict[str, str]:
    if isinstance(value, Mapping) and value:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        items = [(str(place), item) for place, item in enumerate(value)]
    else:
        return {prefix: "none" if value is None else str(value)}
    found: dict[str, str] = {}
    for key, item in items:
        found |= _flat(item, f"{prefix}.{key}" if prefix else key)
    return found
