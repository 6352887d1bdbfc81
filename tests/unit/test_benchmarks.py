"""The arithmetic of the benchmarks: what a wrong sign would turn into a boast."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.coordination import coordination
from benchmarks.gpu_models import TINY, Amount, amount, forward_flops, make_groups, make_lm
from benchmarks.gpu_models import Load as GpuLoad
from benchmarks.lag import lag
from benchmarks.leave_one_out import without
from benchmarks.measured_run import Steps
from benchmarks.pool_seeds import table
from benchmarks.run import rounded
from benchmarks.win_rates import difference, samples_to
from rlft_core.batching.packing import attention_allowed, number_tokens, pack, pad, stack
from rlft_core.config.stages import RewardModelStage
from rlft_core.models.policy import Policy
from rlft_core.updates.experience import flatten
from services.observe.clock import covered


def test_shares_of_a_step_add_up() -> None:
    row = {
        "time/step_s": 10.0,
        "time/sampling_busy_s": 3.0,
        "time/learner_update_s": 5.0,
        "time/learner_publish_s": 0.5,
        "time/learner_save_s": 0.2,
        "sync/seconds": 0.3,
    }
    found = coordination(Steps([row, row]))
    assert found["idle_share"] == pytest.approx(0.1, abs=1e-12)
    assert found["not_computing_share"] == pytest.approx(0.2, abs=1e-12)


def test_lag_is_held_against_what_could_overlap() -> None:
    policy = {"policy/lag": 1.0, "policy/importance_raw": 1.0, "policy/importance_raw_max": 1.5}
    without = Steps([{"time/step_s": 10.0, "time/generate_s": 3.0, "time/update_s": 6.0}])
    found = lag(without, Steps([{"time/step_s": 8.5, **policy}]))
    assert found["bound_s"] == pytest.approx(7.0, abs=1e-12)
    assert found["reached_share"] == pytest.approx(0.5, abs=1e-12)
    slower = lag(without, Steps([{"time/step_s": 11.5, **policy}]))
    assert slower["reached_share"] == pytest.approx(-0.5, abs=1e-12)


def test_a_union_of_spans_counts_no_second_twice() -> None:
    assert covered([]) == 0.0
    assert covered([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.75)]) == pytest.approx(4.0, abs=1e-12)


def test_the_amount_of_packed_rows_is_that_of_their_mask() -> None:
    experience = flatten(make_groups(GpuLoad(groups=3, samples=4, prompt=9, shortest=2, longest=7), TINY))
    micros = stack(pack(experience.sequences, max_tokens=48, multiple=8), max_tokens=96)
    pairs = positions = 0
    for micro in micros:
        assert micro.group is not None
        assert micro.branch is not None
        for group, branch in zip(micro.group, micro.branch, strict=True):
            real = int((group >= 0).sum())
            positions += real
            pairs += int(attention_allowed(group, branch).sum()) - (len(group) - real)  # padding sees itself
    assert max(len(micro.input_ids) for micro in micros) > 1
    assert amount(micros, experience.sequences) == Amount(positions, experience.num_tokens, pairs)


def test_the_amount_of_padded_rows_leaves_padding_out() -> None:
    sequences = number_tokens([([1, 2, 3], [[4], [5, 6]])])
    micros = pad(sequences, max_tokens=64, multiple=8)
    assert amount(micros, sequences) == Amount(positions=9, targets=3, pairs=10 + 15)


def test_forward_flops_counts_each_matrix_once() -> None:
    import torch

    policy = Policy(make_lm(TINY, torch.device("cpu"), "dense"))
    h, kv, m = TINY.hidden, TINY.hidden // TINY.heads * TINY.kv_heads, TINY.intermediate
    matrices = TINY.layers * (2 * h * h + 2 * h * kv + 3 * h * m)
    work = Amount(positions=10, targets=4, pairs=30)
    expected = 2 * matrices * 10 + 2 * TINY.vocab * h * 4 + 4 * h * 30 * TINY.layers
    assert forward_flops(TINY, policy, work) == pytest.approx(expected, rel=1e-12)


def test_figures_are_rounded_throughout() -> None:
    assert rounded({"a": [math.pi, 1], "b": "x"}) == {"a": [3.14159, 1], "b": "x"}


def seed_run(folder: Path, seed: int, rl: list[float], mle: list[float]) -> Path:
    """A run folder with one metric of two systems."""
    (folder / "stages" / "evaluate").mkdir(parents=True)
    (folder / "recipe.resolved.json").write_text(json.dumps({"seed": seed}))
    rows = [
        {"id": f"row-{k}", "metrics": {"rl": {"rougeL": a}, "mle": {"rougeL": b}}}
        for k, (a, b) in enumerate(zip(rl, mle, strict=True))
    ]
    (folder / "stages" / "evaluate" / "outputs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_seeds_are_pooled_row_by_row(tmp_path: Path) -> None:
    one = seed_run(tmp_path / "a", 0, [0.5, 0.7], [0.3, 0.7])
    two = seed_run(tmp_path / "b", 4, [0.4, 0.5], [0.4, 0.3])
    told = table([one, two], "evaluate", "rl", "mle", [])
    assert told.splitlines()[0] == "| rl − mle | seed 0 | seed 4 | together [95 %] | p |"
    # Rows 0 and 1 differ by .2 and 0 in one run, by 0 and .2 in the other: .1 each on average, without any spread.
    assert told.splitlines()[2] == "| rougeL | +0.100 | +0.100 | +0.100 [+0.100, +0.100] | 0.5000 |"


def test_runs_that_answered_other_rows_are_refused(tmp_path: Path) -> None:
    one = seed_run(tmp_path / "a", 0, [0.5, 0.7], [0.3, 0.7])
    two = seed_run(tmp_path / "b", 1, [0.4], [0.4])
    with pytest.raises(ValueError, match="answered other rows"):
        table([one, two], "evaluate", "rl", "mle", [])


def test_a_kind_that_is_left_out_is_still_measured() -> None:
    stage = RewardModelStage()
    found = without(stage, "shuffled")
    assert [kind.label for kind in found.negatives] == [kind.label for kind in stage.negatives]
    assert [kind.label for kind in found.negatives if not kind.share] == ["shuffled"]
    assert without(stage, None) == stage


def test_samples_to_a_rate_are_read_off_the_curve() -> None:
    points = [(0, 0.2), (100, 0.4), (200, 0.3), (300, 0.5)]
    assert samples_to(0.3, points) == pytest.approx(50.0)
    assert samples_to(0.45, points) == pytest.approx(275.0)
    assert samples_to(0.1, points) == 0.0
    assert samples_to(0.5, points) == 300.0
    assert samples_to(0.6, points) is None


def test_a_difference_tells_these_seeds_from_any_seed() -> None:
    """One seed of three is better in every row: sure of these trainings, and nothing of the next one."""
    earlier = np.zeros((3, 16))
    later = np.stack([np.ones(16), np.zeros(16), np.zeros(16)])
    found = difference(later, earlier)
    assert (found["mean"], found["low"], found["high"]) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert found["p"] < 0.001
    assert found["any_seed"]["mean"] == pytest.approx(1 / 3)
    assert found["any_seed"]["low"] == 0.0
    assert found["any_seed"]["p"] == 1.0
