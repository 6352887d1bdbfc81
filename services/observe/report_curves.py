"""Which metrics become which figures of the report, stage by stage. Draws through `charts`; reads no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup

from services.observe import charts
from services.observe.charts import NUM_COLORS, Series
from services.observe.run_files import StageMetrics
from services.observe.wording import compact

#: (metric, title, unit): the figures in their order; a stage shows those it has.
PANELS = (
    ("reward/mean", "Reward", "before KL shaping"),
    ("loss/mean", "Loss", "nats per token"),
    ("loss/validation", "Loss on validation rows", "nats per token"),
    ("pairs/accuracy", "Reference scored higher", "share of training pairs"),
    ("pairs/accuracy_validation", "Reference scored higher", "share of validation pairs"),
    ("pairs/ties", "Prompts without a pair", "best and worst sample scored the same"),
    ("reward/std_in_group", "Spread within a group", "standard deviation of the reward: what there is to learn from"),
    ("kl/mean", "KL to the reference", "nats per token"),
    ("policy/entropy", "Entropy", "nats per token"),
    ("tokens/completion_mean", "Length", "tokens per completion"),
    ("policy/clip_fraction", "Clip fraction", "share of tokens"),
    ("critic/explained_variance", "Explained variance of the critic", "1 is perfect, 0 a constant"),
    ("sync/probe", "Parity probe after sync", "mean log-prob difference, nats"),
    ("tokens/per_second", "Throughput", "generated tokens per second of the step"),
)
_REWARD_SUMMARIES = frozenset(
    {"reward/mean", "reward/std", "reward/min", "reward/max", "reward/skipped", "reward/std_in_group"}
)
_PHASES = ("update", "generate", "score", "sync", "other")


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with its title, unit and last value; several lines come with a legend of (name, colour)."""

    title: str
    unit: str
    chart: Markup
    last: str = ""
    legend: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class StageCurves:
    """A stage's figures: those everyone looks at, and all other metrics for who looks for them."""

    stage: str
    num_steps: int
    figures: tuple[Figure, ...]
    others: tuple[Figure, ...]


def curves_of(stage: StageMetrics, samples: Sequence[Mapping[str, Any]], *, smoothing: float = 1.0) -> StageCurves:
    """All figures of a stage. `samples` stand in for reward breakdowns that the metrics lack."""
    panels = [_worded(stage, *panel) for panel in PANELS]
    figures = [_curve(stage, *panel, smoothing) for panel in panels if stage.points(panel[0])[0]]
    shown = {metric for metric, _, _ in PANELS} | _REWARD_SUMMARIES
    figures[1:1] = [_several(title, unit, parts, smoothing) for title, unit, parts in _breakdowns(stage, samples)]
    shown |= {metric for metric in stage.columns if metric.startswith("reward/") and metric != "reward/skipped"}
    phases = _phases(stage)
    if phases:
        figures.append(_seconds_figure(stage, phases))
    others = [
        _curve(stage, metric, metric, "", smoothing)
        for metric in stage.columns
        if metric not in shown and not metric.startswith("time/") and stage.points(metric)[0]
    ]
    return StageCurves(stage=stage.name, num_steps=len(stage.steps), figures=tuple(figures), others=tuple(others))


def chosen_figures(stage: StageMetrics, metrics: Sequence[str], *, smoothing: float = 1.0) -> tuple[Figure, ...]:
    """One figure for each of the metrics that the stage has, in this order."""
    known = {panel[0]: panel for panel in PANELS}
    panels = [_worded(stage, *known.get(metric, (metric, metric, ""))) for metric in metrics]
    return tuple(_curve(stage, *panel, smoothing) for panel in panels if stage.points(panel[0])[0])


def _worded(stage: StageMetrics, metric: str, title: str, unit: str) -> tuple[str, str, str]:
    """The same metric says another thing where pairs are learned from."""
    if metric == "loss/mean" and "pairs/accuracy" in stage.columns:
        return metric, title, "nats per pair"
    if metric.startswith("pairs/accuracy") and "pairs/chosen" in stage.columns:  # of a policy, not of a reward model
        return metric, "Preferred text gained more", unit
    return metric, title, unit


def _curve(stage: StageMetrics, metric: str, title: str, unit: str, smoothing: float) -> Figure:
    steps, values = stage.points(metric)
    series = Series(name=title, steps=steps, values=values)
    label = f"{title} over {len(steps)} steps of {stage.name}, from {values[0]:.4g} to {values[-1]:.4g}"
    last = compact(charts.smooth(values, times=smoothing)[-1] if smoothing else values[-1])
    chart = charts.line_chart([series], label=label, smoothing=smoothing)
    return Figure(title=title, unit=unit, chart=chart, last=last)


def _several(title: str, unit: str, series: Sequence[Series], smoothing: float) -> Figure:
    legend = tuple((one.name, one.color) for one in series)
    chart = charts.line_chart(series, label=f"{title}: {', '.join(one.name for one in series)}", smoothing=smoothing)
    return Figure(title=title, unit=unit, chart=chart, legend=legend)


def _breakdowns(stage: StageMetrics, samples: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, list[Series]]]:
    """(title, unit, lines): all rewards together, then the details of each reward that has some."""
    points = {
        name.removeprefix("reward/"): stage.points(name)
        for name in stage.columns
        if name.startswith("reward/") and name not in _REWARD_SUMMARIES
    } or _means_of_samples(stage.name, samples)
    groups: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for name, (steps, values) in points.items():
        reward, _, detail = name.partition("/")
        if steps:
            groups.setdefault(reward if detail else "", {})[detail or reward] = (steps, values)
    figures = []
    for reward in sorted(groups):
        lines = [
            Series(name=name, steps=steps, values=values, color=color)
            for color, (name, (steps, values)) in enumerate(list(groups[reward].items())[:NUM_COLORS])
        ]
        title, unit = (f"Made of: {reward}", "") if reward else ("Reward by part", "each one's own value, unweighted")
        figures.append((title, unit, lines))
    return figures


def _means_of_samples(stage: str, samples: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    """Means of the written samples' breakdowns, step by step: what there is when the metrics have no breakdown."""
    found: dict[str, dict[int, list[float]]] = {}
    for row in samples:
        if row.get("stage") == stage:
            for name, value in (row.get("breakdown") or {}).items():
                if isinstance(value, int | float):
                    found.setdefault(name, {}).setdefault(int(row.get("step", 0)), []).append(float(value))
    return {name: (sorted(means), [fmean(means[step]) for step in sorted(means)]) for name, means in found.items()}


def _phases(stage: StageMetrics) -> dict[str, list[float]]:
    """Seconds of each phase at every step, in the order of a step's life; absent ones keep their place and colour."""
    names = [name.removeprefix("time/").removesuffix("_s") for name in stage.columns if _is_phase(name)]
    ordered = [*_PHASES, *(name for name in names if name not in _PHASES)] if names else []
    nothing = (0.0,) * len(stage.steps)
    return {
        name: [max(value or 0.0, 0.0) for value in stage.columns.get(f"time/{name}_s", nothing)]
        for name in ordered[:NUM_COLORS]
    }


def _is_phase(metric: str) -> bool:
    return metric.startswith("time/") and metric.endswith("_s") and metric != "time/step_s"


def _seconds_figure(stage: StageMetrics, phases: Mapping[str, list[float]]) -> Figure:
    means = {name: fmean(values) for name, values in phases.items()}
    legend = tuple((f"{name} {mean:.2f} s", color) for color, (name, mean) in enumerate(means.items()) if mean > 0)
    told = ", ".join(name for name, _ in legend)
    return Figure(
        title="Seconds per step",
        unit="by phase",
        chart=charts.stacked_bars(stage.steps, phases, label=f"Seconds per step of {stage.name}: on average {told}"),
        last=f"{sum(means.values()):.2f} s",
        legend=legend,
    )
