"""Two runs side by side: their curves, evaluations and recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlft_core.errors import UserError
from services.viewer.compare import Difference, figures_over, recipe_differences, scores_of, shared_metrics, side_of
from services.viewer.metrics import MetricsStore
from tests.unit.viewer.made import policy_run, recipe_of, working_run, write, write_lines


def test_a_side_is_a_run_or_a_stage(tmp_path: Path) -> None:
    policy_run(tmp_path, "alpha")
    store = MetricsStore()
    assert side_of(tmp_path, "alpha", store).name == "alpha:ppo"
    assert side_of(tmp_path, "alpha:sft", store).metrics.steps == (0, 1, 2, 3, 4)
    with pytest.raises(UserError, match=r"'alpha' has recorded no stage 'dpo'; there are: sft, ppo"):
        side_of(tmp_path, "alpha:dpo", store)
    with pytest.raises(UserError, match=r"is no name of a run"):
        side_of(tmp_path, "../alpha:ppo", store)


def test_curves_of_metrics_that_both_have(tmp_path: Path) -> None:
    policy_run(tmp_path, "alpha")
    working_run(tmp_path)
    store = MetricsStore()
    both = [side_of(tmp_path, "alpha", store), side_of(tmp_path, "live", store)]
    assert shared_metrics(both) == ["reward/mean"]
    (figure,) = figures_over(both, ["reward/mean"], smoothing=0.0)
    assert figure.legend == (("alpha:ppo", 0), ("live:ppo", 1))
    assert figure.last == "1.9  1.1"
    assert figures_over(both, ["kl/mean"], smoothing=1.0)[0].legend == (("alpha:ppo", 0),)


def test_evaluations_side_by_side(tmp_path: Path) -> None:
    policy_run(tmp_path, "alpha")
    policy_run(tmp_path, "beta")
    working_run(tmp_path)
    found = scores_of(tmp_path, ["alpha", "beta", "live"])
    assert found.systems == ("alpha: Base", "alpha: RL", "beta: Base", "beta: RL")
    assert found.lines[0].label == "ROUGE-1"
    assert found.lines[0].cells[1] == ("0.400", "0.390 – 0.420")


def test_keys_that_differ(tmp_path: Path) -> None:
    policy_run(tmp_path, "alpha")
    policy_run(tmp_path, "beta", num_steps=30, seed=7)
    store = MetricsStore()
    pair = [side_of(tmp_path, name, store) for name in ("alpha", "beta")]
    assert recipe_differences(tmp_path, pair) == [
        Difference("seed", ("0", "7")),
        Difference("stages.ppo.num_steps", ("20", "30")),
    ]
    assert recipe_differences(tmp_path, [pair[0], pair[0]]) == []


def test_a_stage_that_one_lacks_is_one_difference(tmp_path: Path) -> None:
    for name, stages in (("a", [{"type": "sft"}]), ("b", [{"type": "sft"}, {"type": "reward_model"}])):
        write(tmp_path / name / "recipe.resolved.json", recipe_of(name, stages))
    store = MetricsStore()
    pair = [side_of(tmp_path, name, store) for name in ("a", "b")]
    assert recipe_differences(tmp_path, pair) == [Difference("stages.reward_model", ("–", "of type reward_model"))]


def test_rewards_are_told_apart_by_name(tmp_path: Path) -> None:
    rules = {"type": "length_penalty", "target": 5}
    for name, rewards in (
        ("a", [{"type": "rouge"}, rules]),
        ("b", [{**rules, "target": 6}, {"type": "rouge"}, {"type": "bertscore"}]),
    ):
        write(tmp_path / name / "recipe.resolved.json", recipe_of(name, [{"type": "ppo", "rewards": rewards}]))
    store = MetricsStore()
    pair = [side_of(tmp_path, name, store) for name in ("a", "b")]
    assert recipe_differences(tmp_path, pair) == [
        Difference("stages.ppo.rewards.length_penalty.target", ("5", "6")),
        Difference("stages.ppo.rewards.bertscore", ("–", "of type bertscore")),
    ]


def test_two_stages_of_one_run(tmp_path: Path) -> None:
    stages = [{"type": "sft", "num_steps": 5}, {"type": "sft", "name": "more", "num_steps": 9}]
    write(tmp_path / "a" / "recipe.resolved.json", recipe_of("a", stages))
    rows = [{"stage": stage, "step": k, "loss/mean": 1.0} for stage in ("sft", "more") for k in range(3)]
    write_lines(tmp_path / "a" / "metrics.jsonl", rows)
    store = MetricsStore()
    pair = [side_of(tmp_path, spec, store) for spec in ("a:sft", "a:more")]
    assert Difference("num_steps", ("5", "9")) in recipe_differences(tmp_path, pair)
