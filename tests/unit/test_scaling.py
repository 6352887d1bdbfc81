"""When a run gets engines and when it gives some back."""

from __future__ import annotations

import pytest

from rlft_core.scaling import STEPS, Waits, wanted_engines


def steps(*, generate_s: float, busy_s: float, count: int = STEPS) -> list[Waits]:
    return [Waits(10.0, generate_s, busy_s)] * count


@pytest.mark.parametrize(
    "size, generate_s, busy_s, wanted",
    [
        (1, 5.0, 5.0, 2),  # the learner waits half of the time
        (4, 5.0, 5.0, 6),  # by half
        (6, 5.0, 5.0, 8),  # not above the maximum
        (8, 5.0, 5.0, 8),
        (4, 2.0, 9.0, 4),  # it waits a little: neither
        (4, 0.5, 9.0, 4),  # the learner is the slower one, but engines are at work: overlap
        (4, 0.5, 2.0, 3),  # engines are idle
        (2, 0.5, 2.0, 2),  # the minimum
        (3, 0.9, 2.0, 3),  # with one less it would wait too long
    ],
)
def test_engines_follow_the_two_waits(size: int, generate_s: float, busy_s: float, wanted: int) -> None:
    assert (
        wanted_engines(size, steps(generate_s=generate_s, busy_s=busy_s), least=2 if size > 1 else 1, most=8) == wanted
    )


def test_a_change_waits_for_enough_steps_and_only_the_last_count() -> None:
    waiting = steps(generate_s=5.0, busy_s=5.0)
    assert wanted_engines(1, waiting[1:], least=1, most=8) == 1
    assert wanted_engines(1, [*waiting, *steps(generate_s=1.0, busy_s=9.0)], least=1, most=8) == 1
    assert wanted_engines(1, [], least=1, most=8) == 1


def test_bounds_hold_at_once() -> None:
    assert wanted_engines(1, [], least=3, most=8) == 3
    assert wanted_engines(9, [], least=3, most=8) == 8
