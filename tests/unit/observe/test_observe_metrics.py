"""Sums, distributions and names of metrics."""

from __future__ import annotations

import statistics
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlft_core.metrics import Accumulator, distribution, flatten, merge


def test_mean_is_total_sum_over_total_count_not_a_mean_of_means() -> None:
    small, large = Accumulator(), Accumulator()
    small.add("kl/mean", 1.0, 1)
    large.add("kl/mean", 2.0, 9)
    assert merge([small, large]).means() == {"kl/mean": pytest.approx(0.3, rel=1e-15)}


def test_merge_leaves_its_parts_alone_and_takes_names_that_only_one_has() -> None:
    one, two = Accumulator(), Accumulator()
    one.add("a", 4.0, 2)
    two.add("b", 3.0, 1)
    assert merge([one, two]).means() == {"a": 2.0, "b": 3.0}
    assert (one.sums, two.sums) == ({"a": 4.0}, {"b": 3.0})


def test_a_name_that_counted_nothing_is_left_out() -> None:
    part = Accumulator()
    part.add("critic/loss", 0.0, 0)
    part.add("policy/loss", 1.5, 3)
    assert part.means() == {"policy/loss": 0.5}


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.integers(1, 5))
def test_the_split_into_parts_does_not_change_the_mean(values: list[float], num_parts: int) -> None:
    parts = [Accumulator() for _ in range(num_parts)]
    for index, value in enumerate(values):
        parts[index % num_parts].add("x", value)
    assert merge(parts).means()["x"] == pytest.approx(statistics.fmean(values), rel=1e-12, abs=1e-9)


def test_distribution_is_of_the_population() -> None:
    assert distribution([1.0, 2.0, 3.0, 6.0]) == {"mean": 3.0, "std": pytest.approx(3.5**0.5), "min": 1.0, "max": 6.0}
    assert distribution([]) == {}


def test_flatten_makes_slash_paths_and_names_a_leaf_that_is_no_number() -> None:
    assert flatten({"reward": {"mean": 1, "rules": {"all": 0.5}}, "ok": True}) == {
        "reward/mean": 1.0,
        "reward/rules/all": 0.5,
        "ok": 1.0,
    }
    with pytest.raises(TypeError, match="reward/name"):
        flatten({"reward": {"name": "rules"}})


def test_metrics_import_no_torch() -> None:
    code = "import rlft_core.metrics, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
