"""Lineage: within a run, across runs, with what is served, drawn and in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlft_core.errors import UserError
from services.viewer.lineage import Edge, Graph, Node, lineage_of
from services.viewer.lineage_svg import draw, lines_of
from tests.unit.viewer.made import policy_run, recipe_of, write


def edges(graph: Graph) -> set[tuple[str, str, str]]:
    return {(edge.source, edge.target, edge.role) for edge in graph.edges}


def test_stages_of_one_run(tmp_path: Path) -> None:
    policy_run(tmp_path, "alpha")
    graph = lineage_of(tmp_path, "alpha")
    assert edges(graph) == {
        ("data:data/rows.jsonl", "alpha:sft", "rows"),
        ("model:some/model", "alpha:sft", "starts from"),
        ("data:data/rows.jsonl", "alpha:reward_model", "rows"),
        ("alpha:sft", "alpha:reward_model", "starts from"),
        ("data:data/rows.jsonl", "alpha:ppo", "rows"),
        ("alpha:sft", "alpha:ppo", "starts from"),
        ("alpha:reward_model", "alpha:ppo", "reward 'reward_model'"),
        ("data:data/rows.jsonl", "alpha:evaluate", "test rows"),
        ("model:some/model", "alpha:evaluate", "system 'base'"),
        ("alpha:ppo", "alpha:evaluate", "system 'rl'"),
    }
    assert graph.nodes["alpha:ppo"] == Node("alpha:ppo", "ppo", "ppo", "policy (ppo), 20 steps", "alpha", "done")
    assert graph.notes == []


def test_a_model_of_another_run_is_followed_there(tmp_path: Path) -> None:
    policy_run(tmp_path, "alpha")
    policy_run(tmp_path, "beta", model="elsewhere/runs/alpha/stages/sft/model")
    graph = lineage_of(tmp_path, "beta")
    assert ("alpha:sft", "beta:sft", "starts from") in edges(graph)
    assert ("model:some/model", "alpha:sft", "starts from") in edges(graph)
    assert "alpha:ppo" not in graph.nodes  # it does not lead to beta


def test_a_run_that_is_not_here_is_told(tmp_path: Path) -> None:
    policy_run(tmp_path, "beta", model="runs/gone/stages/sft/model")
    graph = lineage_of(tmp_path, "beta")
    assert graph.notes == ["gone: 'sft' was made by a run that is not in this folder, or whose recipe cannot be read"]
    assert graph.nodes["model:runs/gone/stages/sft/model"].label == "sft/model"


def test_runs_that_start_from_each_other_end(tmp_path: Path) -> None:
    policy_run(tmp_path, "alpha", model="runs/beta/stages/ppo/model")
    policy_run(tmp_path, "beta", model="runs/alpha/stages/ppo/model")
    graph = lineage_of(tmp_path, "alpha")
    assert ("beta:ppo", "alpha:sft", "starts from") in edges(graph)
    assert 'aria-label="Lineage of alpha' in draw(graph, run="alpha")


def test_judges_are_part_of_it(tmp_path: Path) -> None:
    rewards = [
        {"type": "judge", "model": "judge/model"},
        {"type": "api_judge", "name": "far", "url": "http://judge.example/v1", "model": "big"},
    ]
    stages = [
        {"type": "sft"},
        {"type": "ppo", "rewards": rewards},
        {"type": "ppo", "name": "more", "rewards": [{"type": "judge"}]},
    ]
    write(tmp_path / "alpha" / "recipe.resolved.json", recipe_of("alpha", stages))
    found = edges(lineage_of(tmp_path, "alpha"))
    assert ("model:judge/model", "alpha:ppo", "judges") in found
    assert ("model:big", "alpha:ppo", "judges") in found
    assert ("alpha:ppo", "alpha:more", "judges") in found


def test_what_is_served_stands_at_the_end(tmp_path: Path) -> None:
    policy_run(tmp_path, "alpha")
    served = {"name": "house", "current": {"label": "alpha:ppo@10"}, "canary": {"label": "alpha:sft"}, "percent": 5.0}
    write(
        tmp_path / ".serving" / "state.json", {"format": 1, "models": [served, {"name": "other", "current": None}, 3]}
    )
    graph = lineage_of(tmp_path, "alpha")
    assert graph.nodes["served:house:current"].detail == "served, step 10"
    assert graph.nodes["served:house:canary"].detail == "tried on 5 %"
    assert ("alpha:ppo", "served:house:current", "served") in edges(graph)
    assert [line.node.label for line in lines_of(graph)].count("house") == 2


def test_a_recipe_of_another_version_is_told(tmp_path: Path) -> None:
    write(tmp_path / "old" / "recipe.resolved.json", {"name": "old", "bogus": 1})
    graph = lineage_of(tmp_path, "old")
    assert graph.notes == ["old: its recipe is missing, or was written by another version of rlft"]
    assert graph.nodes == {}


def test_no_such_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no run 'nope' in this runs folder"):
        lineage_of(tmp_path, "nope")


def test_the_drawing_escapes_and_leads_to_other_runs() -> None:
    graph = Graph()
    graph.nodes["a"] = Node("a", "data", "<script>", "")
    graph.nodes["other:sft"] = Node("other:sft", "sft", "sft", "x", "other", "done")
    graph.nodes["mine:ppo"] = Node("mine:ppo", "ppo", "ppo", "x", "mine", "next")
    graph.edges += [
        Edge("a", "other:sft", "rows"),
        Edge("a", "mine:ppo", "rows"),
        Edge("other:sft", "mine:ppo", "starts from"),
    ]
    drawn = draw(graph, run="mine")
    assert "<script>" not in drawn
    assert 'href="/runs/other?stage=sft"' in drawn
    assert 'class="node kind-ppo own open"' in drawn
    assert [line.uses for line in lines_of(graph)] == [
        ("rows: <script>",),
        ("rows: <script>", "starts from: other:sft"),
    ]


def test_no_line_runs_behind_a_node() -> None:
    """A line over two columns bends through a passage of its own, above or below what stands between."""
    graph = Graph()
    for name in ("a", "b", "c"):
        graph.nodes[name] = Node(name, "sft", name, "", "run", "done")
    graph.edges += [Edge("a", "b", "starts from"), Edge("b", "c", "starts from"), Edge("a", "c", "starts from")]
    drawn = str(draw(graph, run="run"))
    paths = [part.split('"')[1] for part in drawn.split(" d=")[1:]]
    assert [path.count("C") for path in paths] == [1, 1, 2]
