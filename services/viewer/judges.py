"""How well a model that learned to judge did on held-out pairs, in a sentence; from stages/<name>/judge.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.viewer.folders import read_object, stage_folders

RESULT = "judge.json"


def judge_reports(folder: Path) -> dict[str, str]:
    """By stage; most runs have none."""
    found = {stage.name: _told(read_object(stage / RESULT)) for stage in stage_folders(folder)}
    return {stage: told for stage, told in found.items() if told}


def _told(report: Mapping[str, Any]) -> str:
    accuracy = report.get("accuracy")
    if not isinstance(accuracy, Mapping) or not {"mean", "low", "high"} <= accuracy.keys():
        return ""
    told = (
        f"Of {report.get('num_pairs', 0)} held-out pairs it prefers the better text in {_percent(accuracy['mean'])}, "
        f"95 % interval {_percent(accuracy['low'])} to {_percent(accuracy['high'])}"
    )
    if isinstance(report.get("agreement"), int | float):
        told += f". Asked in both orders it says the same in {_percent(report['agreement'])}"
    if isinstance(report.get("first"), int | float):
        told += f", and gives {_percent(report['first'])} of the probability to whatever stands first (50 %: no bias)"
    return told + "."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
