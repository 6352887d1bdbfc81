"""Builds a run's report.html from the files in its folder: one page that needs nothing else, online or off.

Reads and arranges; every number in it was computed before. All text goes through the template's escaping.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rlft_core.config.postprocess import POST
from services.observe import charts, wording
from services.observe.report_curves import curves_of
from services.observe.report_reward_model import findings_of
from services.observe.report_tokens import HeatToken, edits_of, heat, scale_of
from services.observe.report_watch import watch_of
from services.observe.run_files import RunFiles, StageMetrics, read_run

_NUM_OPEN_SAMPLES, _NUM_SAMPLES = 6, 24
_NUM_CARDS = 4
_NUM_ABREAST = 3  # more differences would not fit beside the systems


@dataclass(frozen=True, slots=True)
class Cell:
    """One estimate as text: the value, its interval, and for a difference what it says."""

    value: str
    interval: str
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class MetricLine:
    """One metric over all systems (`cells`) and all differences; None where it was not measured."""

    label: str
    num_rows: int
    cells: tuple[Cell | None, ...]
    differences: tuple[Cell | None, ...]
    chart: Markup


@dataclass(frozen=True, slots=True)
class Card:
    """A headline number: the newest system's value and its paired difference to the one before."""

    label: str
    value: str
    change: str
    interval: str
    against: str
    verdict: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that the held-out rows say. The first `num_main` of the pairs are the comparisons that say most."""

    systems: tuple[str, ...]
    newest: str
    pairs: tuple[str, ...]
    num_main: int
    lines: tuple[MetricLine, ...]
    details: tuple[MetricLine, ...]
    cards: tuple[Card, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Output:
    """One system's text for one row. `color` is None for the reference; `scores` are (label, value) pairs.

    `unchanged`: post-processed, and still the text that stands before it.
    """

    system: str
    text: str
    color: int | None
    scores: tuple[tuple[str, str], ...] = ()
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A held-out row with the reference and each system's output."""

    id: str
    input: str
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """A completion sampled in training."""

    step: int
    prompt: str
    output: str
    reference: str
    reward: str
    breakdown: tuple[tuple[str, str], ...]
    finish_reason: str
    tokens: tuple[HeatToken, ...] = ()


@dataclass(frozen=True, slots=True)
class StageTime:
    """A stage's seconds and its share of the run in percent."""

    name: str
    told: str
    percent: float


def build_report(run_dir: Path) -> Path:
    """Write `report.html` into the run's folder, from the files there and nothing else; returns its path.

    Missing files leave their sections out, and the page says so. Raises DataError when a file is damaged.
    """
    run = read_run(run_dir)
    evaluations = evaluations_of(run.summary)
    recorded = {stage.name for stage in run.stages}
    # A watch looks before the first step is recorded.
    stages = [*run.stages, *(StageMetrics(name, (), {}) for name in run.watches if name not in recorded)]
    environment = Environment(
        loader=PackageLoader("services.observe"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        name=str(run.recipe.get("name", run_dir.resolve().name)),
        facts=_facts(run),
        evaluation=evaluations.pop(next(reversed(evaluations))) if evaluations else None,
        earlier_evaluations=evaluations,
        curves=[curves_of(stage, run.samples) for stage in stages],
        reward_models=[findings_of(stage, result) for stage, result in run.reward_models.items()],
        token_rewards={stage: edits_of(rows) for stage, rows in run.token_rewards.items()},
        watches={stage: watch_of(looks) for stage, looks in run.watches.items()},
        held_out=held_out_of(run.outputs),
        num_open=_NUM_OPEN_SAMPLES,
        num_abreast=_NUM_ABREAST,
        training=[(stage.name, training_samples_of(stage.name, run.samples)) for stage in stages],
        times=_times(run.summary),
        total_time=_total_time(run.summary),
        recipe=json.dumps(run.recipe, indent=2, ensure_ascii=False) if run.recipe else "",
        missing=run.missing,
    )
    path = run_dir / "report.html"
    aside = run_dir / "report.html.aside"
    aside.write_text(page, encoding="utf-8")
    os.replace(aside, path)
    return path


def evaluations_of(summary: Mapping[str, Any]) -> dict[str, Evaluation]:
    """The evaluation of every stage by its name; systems of which no stage is known come last, under no name."""
    known = [stage for stage in summary.get("stages", ()) if isinstance(stage, Mapping) and stage.get("systems")]
    by_stage = {str(stage["name"]): list(stage["systems"]) for stage in known}
    placed = {system for systems in by_stage.values() for system in systems}
    rest = [system for system in summary.get("evaluation") or {} if system not in placed]
    parts = {name: evaluation_of(_only(summary, systems)) for name, systems in [*by_stage.items(), ("", rest)]}
    return {name: part for name, part in parts.items() if part is not None}


def _only(summary: Mapping[str, Any], systems: Sequence[str]) -> dict[str, Any]:
    """The summary of some systems and the differences between them."""
    known: Mapping[str, Any] = summary.get("evaluation") or {}
    differences: Mapping[str, Any] = summary.get("differences") or {}
    pairs = {name: wording.split_pair(name, known) for name in differences}
    return {
        "evaluation": {system: known[system] for system in systems if system in known},
        "differences": {name: differences[name] for name, pair in pairs.items() if set(pair) <= set(systems)},
    }


def evaluation_of(summary: Mapping[str, Any]) -> Evaluation | None:
    """The evaluation arranged by metric; None when the run has none."""
    systems: Mapping[str, Any] = summary.get("evaluation") or {}
    if not systems:
        return None
    differences: Mapping[str, Any] = summary.get("differences") or {}
    pairs = wording.ordered_pairs(differences, list(systems))
    main = wording.main_pairs(list(systems))
    told = {name: pair for name, pair in pairs.items() if pair in main or len(pairs) <= _NUM_ABREAST}
    differences = {name: differences[name] for name in pairs}
    metrics = list(dict.fromkeys(metric for estimates in systems.values() for metric in estimates))
    return Evaluation(
        systems=tuple(map(wording.system_label, systems)),
        newest=wording.system_label(_newest(systems, pairs)),
        pairs=tuple(map(wording.pair_label, pairs.values())),
        num_main=len(told),
        lines=tuple(_metric_line(metric, systems, differences) for metric in metrics if not wording.is_detail(metric)),
        details=tuple(_metric_line(metric, systems, differences) for metric in metrics if wording.is_detail(metric)),
        cards=_cards(systems, differences, pairs),
        sentences=tuple(wording.comparison(pair, differences[name]) for name, pair in told.items()),
    )


def _metric_line(metric: str, systems: Mapping[str, Any], differences: Mapping[str, Any]) -> MetricLine:
    words = wording.wording(metric)
    found = [
        (wording.system_label(name), estimates[metric]) for name, estimates in systems.items() if metric in estimates
    ]
    return MetricLine(
        label=words.label,
        num_rows=max(int(estimate.get("n", 0)) for _, estimate in found),
        cells=tuple(
            Cell(words.value(estimates[metric]["mean"]), wording.interval(words, estimates[metric]))
            if metric in estimates
            else None
            for estimates in systems.values()
        ),
        differences=tuple(_difference(metric, estimates.get(metric)) for estimates in differences.values()),
        chart=charts.interval_chart(found, label=f"{words.label}: mean and 95 % interval of each system"),
    )


def _difference(metric: str, estimate: Mapping[str, float] | None) -> Cell | None:
    if estimate is None:
        return None
    words = wording.wording(metric)
    return Cell(
        value=words.signed(estimate["mean"]),
        interval=wording.signed_interval(words, estimate),
        verdict=wording.verdict(metric, estimate),
    )


def _cards(
    systems: Mapping[str, Any], differences: Mapping[str, Any], pairs: Mapping[str, tuple[str, str]]
) -> tuple[Card, ...]:
    """The metrics with a better and a worse side, of the newest system against the one it is first compared with."""
    last = _newest(systems, pairs)
    name = next((name for name, pair in pairs.items() if pair[0] == last), None)
    if name is None:
        return ()
    directed = [metric for metric in systems[last] if _is_headline(metric) and metric in differences[name]]
    # Clear results first; within them the recipe's own order.
    directed.sort(key=lambda metric: wording.verdict(metric, differences[name][metric]) == wording.NO_DIFFERENCE)
    cards = []
    for metric in directed[:_NUM_CARDS]:
        words, estimate = wording.wording(metric), differences[name][metric]
        cards.append(
            Card(
                label=words.label,
                value=words.value(systems[last][metric]["mean"]),
                change=words.change(estimate["mean"]),
                interval=wording.signed_interval(words, estimate),
                against=wording.system_label(pairs[name][1]),
                verdict=wording.verdict(metric, estimate),
            )
        )
    return tuple(cards)


def _newest(systems: Mapping[str, Any], pairs: Mapping[str, tuple[str, str]]) -> str:
    """The last system that is not another one post-processed: the later one of the first pair."""
    return next((later for later, _ in pairs.values()), list(systems)[-1])


def _is_headline(metric: str) -> bool:
    words = wording.wording(metric)
    return bool(words.direction) and not words.minor and not wording.is_detail(metric)


def held_out_of(rows: Sequence[Mapping[str, Any]]) -> list[HeldOut]:
    """Rows spread evenly over the held-out set: chosen by place, never by score."""
    chosen = [rows[index * len(rows) // min(_NUM_SAMPLES, len(rows))] for index in range(min(_NUM_SAMPLES, len(rows)))]
    shown = []
    for row in chosen:
        metrics: Mapping[str, Mapping[str, float]] = row.get("metrics") or {}
        outputs = [Output(system="Reference", text=str(row.get("reference", "")), color=None)]
        texts: Mapping[str, str] = row.get("outputs") or {}
        for color, (system, text) in enumerate(texts.items()):
            unchanged = system.endswith(POST) and texts.get(system.removesuffix(POST)) == text
            scores = tuple(
                (words.label, words.short(float(number)))
                for metric, number in metrics.get(system, {}).items()
                if _is_headline(metric) and (words := wording.wording(metric))
            )
            label = wording.system_label(system)
            outputs.append(Output(label, str(text), color, () if unchanged else scores, unchanged))
        shown.append(HeldOut(id=str(row.get("id", "")), input=str(row.get("input", "")), outputs=tuple(outputs)))
    return shown


def training_samples_of(stage: str, rows: Sequence[Mapping[str, Any]], *, per_step: int = 3) -> list[TrainingSample]:
    """A few samples of the stage's first, middle and last sampled steps."""
    own = [row for row in rows if row.get("stage") == stage]
    steps = sorted({int(row.get("step", 0)) for row in own})
    if not steps:
        return []
    shown = []
    scale = scale_of(token for row in own for token in row.get("tokens") or ())
    for step in sorted({steps[0], steps[len(steps) // 2], steps[-1]}):
        seen: dict[str, Mapping[str, Any]] = {}
        for row in own:
            if row.get("step") == step:
                seen.setdefault(str(row.get("id")), row)
        shown += [_training_sample(step, row, scale) for row in list(seen.values())[:per_step]]
    return shown


def _training_sample(step: int, row: Mapping[str, Any], scale: float) -> TrainingSample:
    reward = row.get("reward")
    breakdown: Mapping[str, float | None] = row.get("breakdown") or {}
    return TrainingSample(
        step=step,
        prompt=str(row.get("prompt", "")),
        output=str(row.get("output", "")),
        reference=str(row.get("reference", "")),
        reward=f"{reward:.3f}" if isinstance(reward, int | float) else "none",
        breakdown=tuple((name, "none" if value is None else f"{value:.2f}") for name, value in breakdown.items()),
        finish_reason=str(row.get("finish_reason", "")),
        tokens=heat(row.get("tokens") or (), scale),
    )


def _facts(run: RunFiles) -> list[tuple[str, str]]:
    """The few things a reader wants to know before the numbers."""
    model = run.recipe.get("model")
    facts = [("Model", str(model["name"]))] if isinstance(model, Mapping) and "name" in model else []
    if run.stages:
        facts.append(("Stages", ", ".join(f"{stage.name} ({_steps(stage)})" for stage in run.stages)))
    evaluation: Mapping[str, Any] = run.summary.get("evaluation") or {}
    sizes = [int(estimate.get("n", 0)) for estimates in evaluation.values() for estimate in estimates.values()]
    if sizes:
        facts.append(("Held-out rows", f"{max(sizes):,}"))
    if run.summary.get("seconds"):
        facts.append(("Time", _total_time(run.summary)))
    if run.finished_at_s is not None:
        facts.append(("Last step", datetime.fromtimestamp(run.finished_at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")))
    return facts


def _steps(stage: StageMetrics) -> str:
    return f"{len(stage.steps)} step" + ("s" if len(stage.steps) != 1 else "")


def _times(summary: Mapping[str, Any]) -> list[StageTime]:
    seconds: Mapping[str, float] = summary.get("seconds") or {}
    total = sum(seconds.values())
    if total <= 0:
        return []
    return [StageTime(name, wording.duration(value), 100 * value / total) for name, value in seconds.items()]


def _total_time(summary: Mapping[str, Any]) -> str:
    return wording.duration(sum((summary.get("seconds") or {}).values()))
