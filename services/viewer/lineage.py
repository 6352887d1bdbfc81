"""Where a model comes from: data, stages and models of a run as a graph, and those of the runs on which it builds.

A recipe that names a model folder inside another run's folder is followed there, for only those stages that lead to that model.
Draws nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlft_core.config.online import OnlineStage
from rlft_core.config.recipe import Recipe, TrainingStage
from rlft_core.config.rewards import RewardModelConfig
from rlft_core.config.stages import BASE, EvaluateStage, RewardModelStage, StageConfig
from services.pipeline.record import StageRecord, read_record
from services.viewer.folders import NotThere, read_object, read_recipe, run_folder

_MODEL_OF_STAGE = re.compile(r"(?:^|/)([A-Za-z0-9][A-Za-z0-9._-]*)/stages/([A-Za-z0-9][A-Za-z0-9._-]*)/model/?$")
_MOST_RUNS = 12
#: Inside the runs folder: what `rlft serve` remembers of the models that it serves.
SERVED = Path(".serving") / "state.json"
#: Kind of a node -> how people call it.
KINDS = {
    "data": "data",
    "model": "model from outside",
    "sft": "fine-tuning",
    "reward_model": "reward model",
    "ppo": "policy",
    "dpo": "policy",
    "online_dpo": "policy",
    "evaluate": "evaluation",
    "served": "served model",
}


@dataclass(frozen=True, slots=True)
class Node:
    """`id` is unique; `run` is empty for what no run made. `state` as stages have it."""

    id: str
    kind: str
    label: str
    detail: str
    run: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """`source` is used in `target`; `role` says as what."""

    source: str
    target: str
    role: str


@dataclass(slots=True)
class Graph:
    """Nodes by id, edges, and what could not be followed, in words."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def connect(self, source: str, target: str, role: str) -> None:
        edge = Edge(source, target, role)
        if edge not in self.edges:
            self.edges.append(edge)


def lineage_of(runs: Path, name: str) -> Graph:
    """The graph of one run. Raises NotThere when there is no such run."""
    graph = Graph()
    _Walk(runs, graph).run(run_folder(runs, name), None)
    _add_served(graph, read_object(runs / SERVED))
    return graph


def _add_served(graph: Graph, state: Mapping[str, Any]) -> None:
    """The names under which models of the graph are served, as `rlft serve` wrote them down."""
    models = state.get("models")
    for model in models if isinstance(models, list) else ():
        if not isinstance(model, Mapping):
            continue
        for place, told in (("current", "served"), ("canary", f"tried on {model.get('percent', 0):g} %")):
            label = _label_of(model.get(place))
            source, _, step = label.partition("@")
            if source in graph.nodes:
                told += f", step {step}" if step else ""
                node = Node(f"served:{model.get('name')}:{place}", "served", str(model.get("name")), told)
                graph.nodes[node.id] = node
                graph.connect(source, node.id, "served")


def _label_of(checkpoint: object) -> str:
    """RUN:STAGE or RUN:STAGE@STEP."""
    return str(checkpoint.get("label", "")) if isinstance(checkpoint, Mapping) else ""


class _Walk:
    """Goes from run to run, through each at most once for each of its stages."""

    def __init__(self, runs: Path, graph: Graph) -> None:
        self._runs = runs
        self._graph = graph
        self._seen: set[tuple[str, str]] = set()
        self._recipes: dict[str, Recipe | None] = {}

    def run(self, folder: Path, wanted: str | None) -> bool:
        """All stages of a run, or those that lead to one. False when the run's recipe cannot be read."""
        if folder.name not in self._recipes and len(self._recipes) < _MOST_RUNS:
            self._recipes[folder.name] = read_recipe(folder)
        recipe = self._recipes.get(folder.name)
        names = [stage.name for stage in recipe.stages] if recipe is not None else []
        if recipe is None or (wanted is not None and wanted not in names):
            if wanted is None:
                self._graph.notes.append(
                    f"{folder.name}: its recipe is missing, or was written by another version of rlft"
                )
            return False
        for stage in recipe.stages:
            if wanted is None or stage.name == wanted:
                self._stage(folder, recipe, stage)
        return True

    def _stage(self, folder: Path, recipe: Recipe, stage: StageConfig) -> str:
        node = f"{folder.name}:{stage.name}"
        if (folder.name, stage.name) in self._seen:
            return node
        self._seen.add((folder.name, stage.name))
        record = read_record(folder / "stages" / stage.name)
        self._graph.nodes[node] = Node(node, stage.type, stage.name, _told(stage, record), folder.name, _state(record))
        if isinstance(stage, EvaluateStage):
            held_out = recipe.data.test if stage.split == "test" else recipe.data.validation
            own = held_out if isinstance(held_out, str) else recipe.data.train
            self._graph.connect(self._data(own), node, f"{stage.split} rows")
            for label, source in stage.systems.items():
                self._graph.connect(self._source(folder, recipe, source), node, f"system '{label}'")
        else:
            self._graph.connect(self._data(recipe.data.train), node, "rows")
            self._graph.connect(self._source(folder, recipe, recipe.start_of(stage)), node, "starts from")
        for source, role in self._others(folder, recipe, stage):
            self._graph.connect(source, node, role)
        return node

    def _others(self, folder: Path, recipe: Recipe, stage: StageConfig) -> Iterator[tuple[str, str]]:
        """Models that a stage uses besides those it starts from or measures."""
        if isinstance(stage, EvaluateStage | OnlineStage):
            for reward in stage.reward_models:
                yield self._reward_model(folder, recipe, stage, reward), f"reward '{reward.label}'"
        if isinstance(stage, OnlineStage):
            for judge in stage.judges:
                source = recipe.judge_source(stage, judge)
                yield self._source(folder, recipe, source) if source else self._model(judge.model), "judges"
            for remote in stage.api_judges:
                yield self._outside(remote.model, "behind a service"), "judges"
            critic = stage.model_critic
            if critic is not None and critic.start_from is not None:
                yield self._source(folder, recipe, critic.start_from), "critic starts from"

    def _reward_model(
        self, folder: Path, recipe: Recipe, stage: EvaluateStage | OnlineStage, reward: RewardModelConfig
    ) -> str:
        trained = recipe.reward_stage_of(stage, reward)
        return self._model(str(reward.model)) if trained is None else self._source(folder, recipe, trained)

    def _source(self, folder: Path, recipe: Recipe, name: str) -> str:
        if name == BASE:
            return self._model(recipe.model.name)
        return self._stage(folder, recipe, recipe.stage(name))

    def _model(self, name: str) -> str:
        """A model by folder or hub id: the stage that made it, where that is a run beside this one."""
        match = _MODEL_OF_STAGE.search(name)
        if match is not None:
            run, stage = match.groups()
            try:
                if self.run(run_folder(self._runs, run), stage):
                    return f"{run}:{stage}"
            except NotThere:
                pass
            note = f"{run}: '{stage}' was made by a run that is not in this folder, or whose recipe cannot be read"
            if note not in self._graph.notes:
                self._graph.notes.append(note)
        return self._outside(name, "")

    def _outside(self, name: str, detail: str) -> str:
        parts = name.rstrip("/").split("/")
        self._graph.nodes.setdefault(f"model:{name}", Node(f"model:{name}", "model", "/".join(parts[-2:]), detail))
        return f"model:{name}"

    def _data(self, source: str) -> str:
        parts = source.split("/")
        node = Node(f"data:{source}", "data", "/".join(parts[-2:]), "")
        self._graph.nodes.setdefault(node.id, node)
        return node.id


def _told(stage: StageConfig | TrainingStage, record: StageRecord | None) -> str:
    kind = KINDS[stage.type]
    if isinstance(stage, EvaluateStage):
        told = f"{kind}, {len(stage.systems)} system{'s' if len(stage.systems) != 1 else ''}"
    elif isinstance(stage, RewardModelStage):
        told = f"rewards {'tokens' if stage.level == 'token' else 'texts'}, {stage.num_steps} steps"
    else:
        told = (
            f"{kind} ({stage.type}), {stage.num_steps} steps"
            if kind == "policy"
            else f"{kind}, {stage.num_steps} steps"
        )
    return told if record is None or record.done else f"{told}, unfinished"


def _state(record: StageRecord | None) -> str:
    if record is None:
        return "next"
    return "done" if record.done else "before"
