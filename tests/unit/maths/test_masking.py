"""Masked reductions and additive statistics, against plain Python floats."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlft_core.masking import (
    Moments,
    add_tallies,
    masked_mean,
    masked_sum,
    masked_var,
    masked_whiten,
    moments,
    tallies_from_tensors,
    tallies_to_tensors,
    tally,
    whiten,
)

NAN, INF = math.nan, math.inf
FLOATS = st.floats(-100.0, 100.0, allow_nan=False, width=32)


def f64(values: list[float], requires_grad: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=requires_grad)


def test_literal_values() -> None:
    x, mask = f64([1.0, 2.0, 99.0, 6.0]), torch.tensor([True, True, False, True])
    assert float(masked_sum(x, mask)) == 9.0
    assert float(masked_mean(x, mask)) == 3.0
    assert float(masked_var(x, mask)) == 7.0  # (4 + 1 + 9) / 2
    assert float(masked_var(x, mask, unbiased=False)) == pytest.approx(14.0 / 3.0, rel=1e-15)
    assert float(masked_mean(x)) == 27.0


@pytest.mark.parametrize("junk", [NAN, INF, -INF])
def test_masked_junk_reaches_neither_values_nor_gradients(junk: float) -> None:
    mask = torch.tensor([True, False, True, True, False])
    for function in (masked_sum, masked_mean, masked_var, lambda x, m: masked_whiten(x, m).square().sum()):
        dirty = f64([1.0, junk, 4.0, -2.0, junk], requires_grad=True)
        clean = f64([1.0, 4.0, -2.0], requires_grad=True)
        value, expected = function(dirty, mask), function(clean, None)
        value.backward()
        expected.backward()
        assert value.item() == pytest.approx(expected.item(), rel=1e-14)
        assert dirty.grad is not None
        assert clean.grad is not None
        torch.testing.assert_close(dirty.grad[mask], clean.grad, rtol=1e-12, atol=1e-14)
        assert dirty.grad[~mask].tolist() == [0.0, 0.0]


def test_nothing_counts() -> None:
    x, mask = f64([NAN, INF], requires_grad=True), torch.zeros(2, dtype=torch.bool)
    results = [masked_sum(x, mask), masked_mean(x, mask), masked_var(x, mask), masked_whiten(x, mask).sum()]
    assert [result.item() for result in results] == [0.0] * 4
    sum(results).backward()  # type: ignore[union-attr]
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 0.0]
    assert moments(x, mask) == Moments(0.0, 0.0, 0.0)
    assert (Moments().mean, Moments().var, Moments().population_var) == (0.0, 0.0, 0.0)


def test_one_value_has_no_variance() -> None:
    assert float(masked_var(f64([3.0]))) == 0.0
    assert moments(f64([3.0])).var == 0.0
    assert float(masked_whiten(f64([3.0]))) == 0.0


def test_whitening_by_hand() -> None:
    # mean 2, unbiased variance 4, so (x - 2) / 2; with the mean kept, that plus 2.
    x = f64([0.0, 2.0, 4.0])
    assert masked_whiten(x, eps=0.0).tolist() == [-1.0, 0.0, 1.0]
    assert masked_whiten(x, None, False, eps=0.0).tolist() == [1.0, 2.0, 3.0]


@settings(deadline=None, max_examples=50)
@given(st.lists(FLOATS, min_size=2, max_size=30), st.data())
def test_moments_of_parts_add_up_to_those_of_the_whole(values: list[float], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(values)))
    first, second = moments(torch.tensor(values[:cut])), moments(torch.tensor(values[cut:]))
    whole = first + second
    assert whole.count == len(values)
    assert whole.mean == pytest.approx(statistics.fmean(values), rel=1e-12, abs=1e-12)
    assert whole.var == pytest.approx(statistics.variance(values), rel=1e-9, abs=1e-9)
    assert whole.population_var == pytest.approx(statistics.pvariance(values), rel=1e-9, abs=1e-9)
    assert Moments.from_tensor(first.to_tensor() + second.to_tensor()) == whole


def test_whitening_parts_by_the_moments_of_the_whole() -> None:
    x = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 7
    mean, std = statistics.fmean(x.tolist()), statistics.stdev(x.tolist())
    whole = moments(x[:13]) + moments(x[13:])
    parts = torch.cat([whiten(x[:13], whole), whiten(x[13:], whole)])
    assert parts.tolist() == pytest.approx([(value - mean) / std for value in x.tolist()], rel=1e-7)
    kept = whiten(x, whole, shift_mean=False)
    assert statistics.fmean(kept.tolist()) == pytest.approx(mean, rel=1e-12)


def test_float32_moments_do_not_lose_small_deviations_from_a_large_mean() -> None:
    x = torch.tensor([4096.0, 4096.5, 4097.0]).repeat(1000)
    assert moments(x).population_var == pytest.approx(1.0 / 6.0, rel=1e-8)


def test_half_precision_is_summed_in_float32() -> None:
    x = torch.ones(1000, dtype=torch.bfloat16)
    assert masked_sum(x).dtype == torch.float32
    assert float(masked_sum(x)) == 1000.0


def test_a_mask_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="boolean"):
        masked_sum(f64([1.0, 2.0]), torch.tensor([1, 0]))
    with pytest.raises(ValueError, match=r"\[2\]"):
        masked_sum(f64([1.0, 2.0]), torch.tensor([True]))


def test_tallies_add_and_survive_the_trip_through_an_all_reduce() -> None:
    first = {"ratio": tally(f64([1.0, 2.0, NAN]), torch.tensor([True, True, False])), "only_first": tally(f64([5.0]))}
    second = {"ratio": tally(f64([9.0, -1.0, 0.0, 0.0]))}
    both = add_tallies(first, second)
    assert float(both["ratio"].count) == 6.0
    assert both["ratio"].mean == pytest.approx(11.0 / 6.0, rel=1e-15)
    assert float(both["ratio"].max) == 9.0
    assert both["only_first"].mean == 5.0
    back = tallies_from_tensors(["ratio", "only_first"], *tallies_to_tensors(both))
    assert {name: (t.mean, float(t.max)) for name, t in back.items()} == {
        "ratio": (11.0 / 6.0, 9.0),
        "only_first": (5.0, 5.0),
    }


def test_a_tally_of_nothing_is_neutral() -> None:
    nothing, some = tally(f64([NAN]), torch.tensor([False])), tally(f64([-3.0, -5.0]))
    assert nothing.mean == 0.0
    total = nothing + some
    assert (total.mean, float(total.max)) == (-4.0, -3.0)
    assert tally(torch.tensor([True, False, False, False])).mean == 0.25
