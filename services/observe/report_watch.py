"""What the report says of a watched PPO stage: the reward beside the metrics that nobody rewards. Reads no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.observe import charts
from services.observe.charts import Series
from services.observe.report_curves import Figure
from services.observe.wording import wording


@dataclass(frozen=True, slots=True)
class Watch:
    """A stage's looks: figures over steps, the alarms as (step, what happened), and the step of the best model."""

    num_looks: int
    num_rows: int
    figures: tuple[Figure, ...]
    alarms: tuple[tuple[int, str], ...]
    best_step: int | None


def watch_of(looks: Sequence[Mapping[str, Any]]) -> Watch:
    """The looks of one stage, in the order of their steps. A metric that some look lacks is drawn from the others."""
    alarms = tuple((int(look["step"]), str(text)) for look in looks for text in look.get("alarms") or ())
    marked = sorted({step for step, _ in alarms})
    names = dict.fromkeys(name for look in looks for name in look.get("metrics") or {})
    rewards = [(look["step"], look["reward"]) for look in looks if isinstance(look.get("reward"), int | float)]
    figures = []
    if rewards:
        steps, values = zip(*rewards, strict=True)
        figures.append(_figure(Series("Reward", steps, values), "what is trained for", marked))
    for name in names:
        found = [(look["step"], look["metrics"][name]) for look in looks if name in (look.get("metrics") or {})]
        figures.append(_figure(_series(name, found), "band: 95 % interval", marked))
    sizes = [int(estimate.get("n", 0)) for look in looks for estimate in (look.get("metrics") or {}).values()]
    best = [int(look["step"]) for look in looks if look.get("best")]
    return Watch(
        num_looks=len(looks),
        num_rows=max(sizes, default=0),
        figures=tuple(figures),
        alarms=alarms,
        best_step=best[-1] if best else None,
    )


def _series(name: str, found: Sequence[tuple[int, Mapping[str, float]]]) -> Series:
    return Series(
        name=wording(name).label,
        steps=[step for step, _ in found],
        values=[estimate["mean"] for _, estimate in found],
        color=1,
        low=[estimate["low"] for _, estimate in found],
        high=[estimate["high"] for _, estimate in found],
    )


def _figure(series: Series, unit: str, marked: Sequence[int]) -> Figure:
    first, last = series.values[0], series.values[-1]
    label = f"{series.name} on validation rows, from {first:.4g} at step {series.steps[0]:g} to {last:.4g}"
    return Figure(
        title=series.name,
        unit=unit,
        chart=charts.band_chart(series, label=label, marked=marked),
        last=f"{last:.3f}".replace("-", "\u2212"),
    )
