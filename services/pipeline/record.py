"""What a stage leaves beside its results: which inputs it had, whether it is done, how long it took.

A stage's fingerprint covers its configuration, the data files' contents, the model, the seed and the fingerprints of the
stages it builds on. Same fingerprint and done: not run again. Same fingerprint and not done: resumed. Another one: the
old folder is moved aside, never deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlft_core.config.edits import FileEditsConfig
from rlft_core.config.online import OnlineStage
from rlft_core.config.pairs import FilePairsConfig
from rlft_core.config.recipe import Recipe
from rlft_core.config.stages import EvaluateStage, RewardModelStage, StageConfig, pairs_in
from rlft_core.data.load import find_file

RECORD = "stage.json"

_WHERE_IT_RUNS = {"num_ranks", "device", "cpus_per_rank", "threads_per_rank", "max_restarts", "step_deadline_s"}
_NOT_DECISIVE: dict[str, Any] = {
    "learner": _WHERE_IT_RUNS,
    "rollout": True,
    "checkpoint": True,
    "log_samples_every": True,
    "num_scorers": True,
    "rewards": {"__all__": {"num_actors", "cpus_per_actor", "gpus_per_actor", "rollout"}},
    "show_samples": True,
}
"""Keys that say where or how fast a stage runs: a run may be resumed with others."""


@dataclass(frozen=True, slots=True)
class StageRecord:
    """`seconds` adds up over interrupted attempts."""

    name: str
    type: str
    fingerprint: str
    done: bool
    seconds: float


def read_record(folder: Path) -> StageRecord | None:
    """The record of a stage folder; None when there is none or it is not readable."""
    try:
        return StageRecord(**json.loads((folder / RECORD).read_text()))
    except (OSError, json.JSONDecodeError, TypeError):
        return None


def write_record(folder: Path, record: StageRecord) -> None:
    """Replace the record in one step."""
    write_json(folder / RECORD, asdict(record))


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file in one step."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(content, indent=1, ensure_ascii=False))
    aside.replace(path)


def set_aside(folder: Path) -> Path:
    """Rename a folder to `<name>.old-<n>` and return the new name."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    folder.rename(target)
    return target


def fingerprints(recipe: Recipe, model: str, base_dir: Path) -> dict[str, str]:
    """The fingerprint of every stage by name. `model` says which model `base` is: a folder or a hub id."""
    data = _digest({"data": recipe.data.model_dump(mode="json"), "files": _file_digests(recipe, base_dir)})
    common = {
        "data": data,
        "model": recipe.model.model_dump(mode="json"),
        "seed": recipe.seed,
        "base": _model_digest(model),
    }
    found: dict[str, str] = {}
    for stage in recipe.stages:
        sources = {name: found.get(name, "base") for name in sorted(_sources(recipe, stage))}
        decisive = stage.model_dump(mode="json", exclude=_NOT_DECISIVE)
        files = {"files": _digests_of(_own_files(stage), base_dir)} if _own_files(stage) else {}
        found[stage.name] = _digest({**common, "stage": decisive, "sources": sources, **files})
    return found


def _sources(recipe: Recipe, stage: StageConfig) -> set[str]:
    """The earlier stages on which a stage's result depends."""
    found = set(stage.systems.values()) if isinstance(stage, EvaluateStage) else {recipe.start_of(stage)}
    if isinstance(stage, EvaluateStage | OnlineStage):
        trained = (recipe.reward_stage_of(stage, reward) for reward in stage.reward_models)
        found |= {name for name in trained if name is not None}
    if isinstance(stage, OnlineStage):
        judges = (recipe.judge_source(stage, judge) for judge in stage.judges)
        found |= {name for name in judges if name is not None}
    if isinstance(stage, OnlineStage) and stage.model_critic is not None and stage.model_critic.start_from is not None:
        found.add(stage.model_critic.start_from)
    return found


def _file_digests(recipe: Recipe, base_dir: Path) -> dict[str, str]:
    sources = [recipe.data.train, recipe.data.validation, recipe.data.test]
    return _digests_of([source for source in sources if isinstance(source, str)], base_dir)


def _own_files(stage: StageConfig) -> list[str]:
    """The files of edits or pairs that a stage learns from."""
    found = stage.edits if isinstance(stage, RewardModelStage) else pairs_in(stage)
    if not isinstance(found, FileEditsConfig | FilePairsConfig):
        return []
    return [source for source in (found.train, found.validation) if source is not None]


def _digests_of(sources: Sequence[str], base_dir: Path) -> dict[str, str]:
    files = [source for source in sources if not source.startswith("hf:")]
    return {name: hashlib.sha256(find_file(name, base_dir=base_dir).read_bytes()).hexdigest() for name in files}


def _model_digest(model: str) -> str:
    folder = Path(model)
    if not folder.is_dir():
        return model
    sizes = {file.name: file.stat().st_size for file in sorted(folder.glob("*.safetensors"))}
    config = (folder / "config.json").read_text() if (folder / "config.json").is_file() else ""
    return _digest({"sizes": sizes, "config": config})


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]
