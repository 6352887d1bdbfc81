"""Which requests a canary gets, and how many requests and tokens a key may have."""

from __future__ import annotations

import pytest

from rlft_core.serving.routing import Allowance, to_canary


@pytest.mark.parametrize("percent, expected", [(1.0, 1), (10.0, 10), (33.0, 33), (50.0, 50), (99.0, 99), (100.0, 100)])
def test_of_any_hundred_requests_in_a_row_a_canary_gets_its_share(percent: float, expected: int) -> None:
    for first in (0, 1, 57, 12_345):
        assert sum(to_canary(percent, number) for number in range(first, first + 100)) == expected


def test_a_small_share_is_spread_and_not_taken_at_once() -> None:
    assert [number for number in range(1000) if to_canary(0.5, number)] == [199, 399, 599, 799, 999]
    assert [number for number in range(20) if to_canary(25.0, number)] == [3, 7, 11, 15, 19]


def test_without_a_share_nobody_gets_it() -> None:
    assert not any(to_canary(0.0, number) for number in range(1000))
    assert not any(to_canary(0.0, 0, f"user-{number}") for number in range(1000))


def test_a_user_always_goes_the_same_way_and_users_are_shared_out() -> None:
    users = [f"user-{number}" for number in range(2000)]
    chosen = [to_canary(20.0, 0, user) for user in users]
    assert chosen == [to_canary(20.0, number, user) for number, user in enumerate(users)]
    assert 330 <= sum(chosen) <= 470
    # Whoever was in a small share stays in a larger one.
    assert all(to_canary(40.0, 0, user) for user, there in zip(users, chosen, strict=True) if there)


def test_requests_per_minute_are_counted_by_key() -> None:
    allowance = Allowance(requests_per_minute=3)
    assert [allowance.take_request("a", 10.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert allowance.take_request("a", 10.0) == pytest.approx(20.0)
    assert allowance.take_request("b", 10.0) == 0.0
    assert allowance.take_request("a", 25.0) == pytest.approx(5.0)
    assert allowance.take_request("a", 30.0) == 0.0
    assert allowance.take_request("a", 30.0) > 0.0


def test_a_request_that_is_refused_costs_nothing() -> None:
    allowance = Allowance(requests_per_minute=1)
    assert allowance.take_request("a", 0.0) == 0.0
    for _ in range(50):
        assert allowance.take_request("a", 1.0) == pytest.approx(59.0)
    assert allowance.take_request("a", 60.0) == 0.0


def test_tokens_are_taken_when_they_are_known_and_a_debt_is_waited_for() -> None:
    allowance = Allowance(tokens_per_minute=60)
    assert allowance.take_request("a", 0.0) == 0.0
    allowance.take_tokens("a", 90, 0.0)
    assert allowance.take_request("a", 0.0) == pytest.approx(30.001)
    assert allowance.take_request("a", 29.0) > 0.0
    assert allowance.take_request("a", 31.0) == 0.0
    assert allowance.take_request("b", 0.0) == 0.0


def test_without_limits_nothing_is_kept() -> None:
    allowance = Allowance()
    assert [allowance.take_request(str(key), 0.0) for key in range(100)] == [0.0] * 100
    allowance.take_tokens("a", 10**9, 0.0)
    assert allowance.take_request("a", 0.0) == 0.0
