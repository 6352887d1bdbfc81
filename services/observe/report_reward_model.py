"""What the report says of a reward-model stage: accuracy by kind of bad output, gaps, calibration. Reads no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from services.observe import charts, wording
from services.observe.report_curves import Figure
from services.observe.wording import Wording

_PERCENT = Wording("", percent=True)
_GAP = Wording("", digits=2)


@dataclass(frozen=True, slots=True)
class KindLine:
    """One kind of bad output, as text; empty where nothing was measured or counted."""

    label: str
    accuracy: str = ""
    interval: str = ""
    chart: Markup | None = None
    gap: str = ""
    num_held_out: str = ""
    num_made: str = ""
    num_skipped: str = ""


@dataclass(frozen=True, slots=True)
class RewardModelFindings:
    """A reward-model stage's section: a line for each kind and one for all together, facts, the calibration figure."""

    stage: str
    lines: tuple[KindLine, ...]
    facts: tuple[tuple[str, str], ...]
    calibration: Figure | None


def findings_of(stage: str, result: Mapping[str, Any]) -> RewardModelFindings:
    """The section of a stage from its result.json."""
    kinds: Mapping[str, Any] = result["kinds"]
    overall: Mapping[str, float] = result["overall"]
    pairs: Mapping[str, Mapping[str, int]] = result.get("pairs") or {}
    made, skipped = pairs.get("made") or {}, pairs.get("skipped") or {}
    lowest = min([0.5, overall["low"], *(found["accuracy"]["low"] for found in kinds.values())])
    names = dict.fromkeys([*kinds, *made, *skipped])
    lines = [_line(name, kinds.get(name), made.get(name), skipped.get(name), bounds=(lowest, 1.0)) for name in names]
    positives: Mapping[str, float] = result["positives"]
    facts: tuple[tuple[str, str], ...] = (
        ("Calibration error", f"{result['calibration']['ece']:.3f}"),
        ("Brier score", f"{result['calibration']['brier']:.3f}"),
        ("Reward of references", f"{_GAP.value(positives['mean'])} ± {positives['std']:.2f}"),
    )
    found = (result.get("localisation") or {}).get("worse")
    if found:
        facts = (
            *facts,
            ("Finds edited tokens", f"AUC {found['auc']:.3f}, average precision {found['average_precision']:.2f}"),
        )
    return RewardModelFindings(
        stage=stage,
        lines=(*lines, _measured("All, by row", overall, bounds=(lowest, 1.0))),
        facts=facts,
        calibration=_calibration(result["calibration"].get("bins") or []),
    )


def _line(
    name: str, found: Mapping[str, Any] | None, made: int | None, skipped: int | None, *, bounds: tuple[float, float]
) -> KindLine:
    label = name[:1].upper() + name[1:].replace("_", " ")
    num_made, num_skipped = _count(made), _count(skipped)
    if found is None:
        return KindLine(label, num_made=num_made, num_skipped=num_skipped)
    gap = _GAP.signed(found["gap"])
    return _measured(label, found["accuracy"], bounds=bounds, gap=gap, num_made=num_made, num_skipped=num_skipped)


def _measured(
    label: str,
    accuracy: Mapping[str, float],
    *,
    bounds: tuple[float, float],
    gap: str = "",
    num_made: str = "",
    num_skipped: str = "",
) -> KindLine:
    return KindLine(
        label=label,
        accuracy=_PERCENT.value(accuracy["mean"]),
        interval=wording.interval(_PERCENT, accuracy),
        chart=charts.interval_chart(
            [(label, accuracy)], label=f"{label}: accuracy with its 95 % interval", bounds=bounds
        ),
        gap=gap,
        num_held_out=_count(int(accuracy["n"])),
        num_made=num_made,
        num_skipped=num_skipped,
    )


def _calibration(bins: list[Mapping[str, float]]) -> Figure | None:
    if not bins:
        return None
    told = ", ".join(f"{bin_['confidence']:.2f} said and {bin_['accuracy']:.2f} right" for bin_ in bins)
    return Figure(
        title="Calibration",
        unit="how often it is right, by the probability it gives; on the line it means what it says",
        chart=charts.calibration_chart(bins, label=f"Calibration: {told}"),
    )


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"
