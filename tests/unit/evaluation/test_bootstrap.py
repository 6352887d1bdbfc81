"""Bootstrap and sign-flip test against plain loops, exact enumeration, and their known behaviour."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from rlft_core.evaluation import bootstrap
from rlft_core.evaluation.bootstrap import Interval, crossed_interval, interval, paired_difference, paired_p_value


def quantile(ordered: list[float], share: float) -> float:
    """Linear interpolation between the neighbours of position share * (n - 1)."""
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def test_an_interval_is_the_quantiles_of_the_resampled_means() -> None:
    values = [0.1, 0.5, 0.2, 0.9, 0.4, 0.4, 0.7]
    draws = np.random.default_rng(11).integers(0, 7, size=(500, 7)).tolist()
    means = sorted(sum(values[index] for index in draw) / 7 for draw in draws)
    found = interval(values, level=0.9, resamples=500, seed=11)
    assert found.mean == pytest.approx(3.2 / 7, abs=1e-12)
    assert found.low == pytest.approx(quantile(means, 0.05), abs=1e-12)
    assert found.high == pytest.approx(quantile(means, 0.95), abs=1e-12)
    assert found.n == 7


def test_clusters_are_drawn_as_wholes() -> None:
    values = [0.1, 0.5, 0.2, 0.9, 0.4, 0.4, 0.7]
    clusters = ["a", "b", "a", "c", "b", "a", "c"]
    members = [[values[k] for k in range(7) if clusters[k] == name] for name in "abc"]
    draws = np.random.default_rng(11).integers(0, 3, size=(500, 3)).tolist()
    drawn = [[value for index in draw for value in members[index]] for draw in draws]
    means = sorted(sum(one) / len(one) for one in drawn)
    found = interval(values, clusters=clusters, level=0.9, resamples=500, seed=11)
    assert found.mean == pytest.approx(3.2 / 7, abs=1e-12)
    assert found.low == pytest.approx(quantile(means, 0.05), abs=1e-12)
    assert found.high == pytest.approx(quantile(means, 0.95), abs=1e-12)
    assert interval(values, clusters=range(7), seed=3) == interval(values, seed=3)
    with pytest.raises(ValueError, match="7 values and 6 clusters"):
        interval(values, clusters=clusters[:6])


def test_an_interval_approaches_the_exact_bootstrap_distribution() -> None:
    values = [0.0, 1.0, 3.0, 7.0]
    exact = sorted(sum(draw) / 4 for draw in product(values, repeat=4))  # all 256 resamples
    found = interval(values, level=0.5, resamples=40_000, seed=3)
    assert found.low == quantile(exact, 0.25) == 1.75
    assert found.high == quantile(exact, 0.75) == 3.75


def test_the_seed_decides() -> None:
    values = np.random.default_rng(0).normal(size=40)
    assert interval(values, seed=5) == interval(values, seed=5)
    assert interval(values, seed=5) != interval(values, seed=6)


def test_equal_values_and_one_value_have_no_width() -> None:
    assert interval([0.25] * 8) == Interval(0.25, 0.25, 0.25, 8)
    assert interval([3.0]) == Interval(3.0, 3.0, 3.0, 1)
    assert interval([3.0]).as_dict() == {"mean": 3.0, "low": 3.0, "high": 3.0, "n": 1}


def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(42)
    covered = 0
    for trial in range(400):
        found = interval(rng.exponential(size=60), level=0.9, resamples=400, seed=trial)
        covered += found.low <= 1.0 <= found.high
    # Skewed values cost a little below 90 %; three standard errors of 400 trials are 4.5 points.
    assert 0.84 <= covered / 400 <= 0.935


def test_the_width_is_that_of_the_standard_error() -> None:
    values = np.random.default_rng(1).normal(size=500)
    found = interval(values, resamples=8000)
    expected = 2 * 1.96 * values.std() / np.sqrt(500)
    assert 0.96 < (found.high - found.low) / expected < 1.04


def test_chunks_bound_the_numbers_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_MAX_DRAWS", 30)
    values = [0.0, 1.0] * 5
    found = interval(values, resamples=2000, seed=0)
    assert found.mean == 0.5
    assert (found.low, found.high) == (0.2, 0.8)  # quantiles of Binomial(10, .5) / 10
    assert 0.0 < paired_p_value(values, [0.5] * 10, permutations=100) <= 1.0


def test_a_paired_difference_is_much_surer_than_two_means() -> None:
    rng = np.random.default_rng(2)
    base = rng.normal(size=100)
    better = base + 0.1 + rng.normal(scale=0.05, size=100)
    found = paired_difference(better, base, seed=1)
    assert found == interval(better - base, seed=1)
    assert 0.08 < found.low < found.mean < found.high < 0.12
    assert interval(better).low < interval(base).high
    reverse = paired_difference(base, better, seed=1)
    assert (reverse.mean, reverse.low, reverse.high) == pytest.approx((-found.mean, -found.high, -found.low), abs=1e-12)


def exact_p(differences: list[float]) -> float:
    observed = abs(sum(differences))
    patterns = list(product([1, -1], repeat=len(differences)))
    hits = sum(
        abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= observed - 1e-9 for signs in patterns
    )
    return hits / len(patterns)


@pytest.mark.parametrize(
    "a, b, expected",
    [
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], 0.25),  # only +++ and --- are as extreme, of 8
        ([1.0, -1.0], [0.0, 0.0], 1.0),
        ([2.0], [1.0], 1.0),
        ([1.0] * 10, [0.0] * 10, 2 / 1024),
        ([0.5, 0.5], [0.5, 0.5], 1.0),
    ],
)
def test_small_p_values_are_exact(a: list[float], b: list[float], expected: float) -> None:
    assert paired_p_value(a, b) == pytest.approx(expected, abs=1e-12)


def test_exact_p_values_match_plain_enumeration() -> None:
    rng = np.random.default_rng(4)
    for n in (3, 6, 9):
        a, b = rng.integers(0, 4, size=n).astype(float), rng.integers(0, 4, size=n).astype(float)
        assert paired_p_value(a, b) == pytest.approx(exact_p((a - b).tolist()), abs=1e-12)


def test_drawn_p_values_approach_the_exact_one() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(0.4, size=12), rng.normal(size=12)
    exact = exact_p((a - b).tolist())
    assert 0.01 < exact < 0.9
    drawn = paired_p_value(a, b, permutations=4000, seed=9)  # below 2^12 = 4096, so patterns are drawn
    assert abs(drawn - exact) < 4 * (exact * (1 - exact) / 4000) ** 0.5
    assert drawn != exact


def test_a_drawn_p_value_is_never_zero() -> None:
    assert paired_p_value([1.0] * 40, [0.0] * 40, permutations=99) == 0.01


# ---------------------------------------------------------------- trainings and rows


def test_a_crossed_interval_approaches_the_exact_bootstrap_distribution() -> None:
    table = [[0.0, 1.0, 5.0], [2.0, 4.0, 9.0]]
    exact = sorted(
        sum(table[s][n] for s in trainings for n in rows) / 6
        for trainings in product(range(2), repeat=2)
        for rows in product(range(3), repeat=3)
    )  # all 108 resamples
    found = crossed_interval(table, level=0.5, resamples=40_000, seed=3)
    assert found.mean == pytest.approx(21 / 6)
    assert found.low == pytest.approx(quantile(exact, 0.25), abs=1e-12)
    assert found.high == pytest.approx(quantile(exact, 0.75), abs=1e-12)
    assert found.n == 6


def test_trainings_that_differ_widen_a_crossed_interval() -> None:
    """Where rows alone see next to nothing of it."""
    rng = np.random.default_rng(0)
    table = rng.normal(0.0, 1.0, (40, 1)) + rng.normal(0.0, 0.01, (40, 50))
    crossed, trainings, rows = crossed_interval(table), interval(table.mean(axis=1)), interval(table.mean(axis=0))
    widths = [found.high - found.low for found in (crossed, trainings, rows)]
    assert 0.9 < widths[0] / widths[1] < 1.1
    assert widths[2] < 0.02 * widths[0]


def test_a_crossed_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        table = rng.normal(0, 0.05, (7, 1)) + rng.normal(0, 0.3, (1, 40)) + rng.normal(0, 0.4, (7, 40))
        found = crossed_interval(table, resamples=400)
        hits += found.low <= 0.0 <= found.high
    assert 0.92 <= hits / 300 <= 0.995


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: crossed_interval([1.0, 2.0]), "a table"),  # type: ignore[list-item]
        (lambda: crossed_interval([[1.0, float("nan")]]), "value 1 of 2 is not finite"),
        (lambda: crossed_interval(np.zeros((2, 0))), "at least one number"),
        (lambda: crossed_interval([[1.0]], level=1.0), "level"),
        (lambda: interval([]), "at least one number"),
        (lambda: interval([[1.0], [2.0]]), "shape"),  # type: ignore[list-item]
        (lambda: interval([1.0, float("nan")]), "value 1 of 2 is not finite"),
        (lambda: interval([float("inf"), 1.0]), "value 0 of 2 is not finite"),
        (lambda: interval([1.0], level=1.0), "level"),
        (lambda: interval([1.0], level=0.0), "level"),
        (lambda: interval([1.0], resamples=0), "resamples"),
        (lambda: paired_difference([1.0, 2.0], [1.0]), "same rows, got 2 and 1"),
        (lambda: paired_p_value([1.0, 2.0], [1.0]), "same rows"),
        (lambda: paired_p_value([1.0], [1.0], permutations=0), "permutations"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
