"""Two runs, or two stages of one, side by side: curves over each other, evaluations, and where their recipes differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
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
    """Keys of the resolved recipes that differ; of two stages of one run, keys of these. Stages, rewards and the like are told
    apart by their names, not by place, and one that a side lacks is one difference, not one for each of its keys."""
    recipes = [_by_name(read_object(run_folder(runs, side.run) / RECIPE)) for side in sides]
    if len({side.run for side in sides}) == 1:
        recipes = [recipe.get("stages", {}).get(side.stage, {}) for recipe, side in zip(recipes, sides, strict=True)]
    return [found for found in _differences("", recipes) if found.key not in _NAMES]


def _differences(key: str, values: Sequence[object]) -> Iterator[Difference]:
    maps = [value for value in values if isinstance(value, Mapping)]
    if len(maps) == len(values):
        for name in dict.fromkeys(name for one in maps for name in one):
            yield from _differences(f"{key}.{name}" if key else name, [one.get(name, ABSENT) for one in maps])
        return
    told = tuple(map(_told, values))
    if len(set(told)) > 1:
        yield Difference(key, told)


def _told(value: object) -> str:
    if isinstance(value, Mapping):
        return f"of type {value['type']}" if "type" in value else json.dumps(value, ensure_ascii=False)
    return "none" if value is None else str(value)


def _by_name(value: Any) -> Any:
    """Lists of things that have a type as mappings by their names, or types where they have none."""
    if isinstance(value, Mapping):
        return {str(key): _by_name(item) for key, item in value.items()}
    if (
        not isinstance(value, list)
        or not all(isinstance(item, Mapping) and "type" in item for item in value)
        or not value
    ):
        return value
    found: dict[str, Any] = {}
    for item in value:
        name = str(item.get("name") or item["type"])
        found[name if name not in found else f"{name} #{len(found) + 1}"] = _by_name(item)
    return found


def _cell(metric: str, estimates: Mapping[str, Any]) -> tuple[str, str]:
    estimate = estimates.get(metric)
    if not isinstance(estimate, Mapping) or not {"mean", "low", "high"} <= estimate.keys():
        return ("", "")
    words = wording.wording(metric)
    return words.value(estimate["mean"]), wording.interval(words, estimate)
