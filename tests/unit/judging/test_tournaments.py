"""Brackets and schedules: who meets whom, how often, and what comes out; Bradley-Terry against known solutions."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlft_core.judging.bracket import Bracket
from rlft_core.judging.ranking import Schedule, bradley_terry_fit, paired, win_shares


def play(num_entries: int, *, seed: int = 0) -> tuple[Bracket, list[list[tuple[int, int]]]]:
    """A tournament in which the entry with the higher number always wins, and its rounds."""
    bracket, rounds = Bracket(num_entries, seed=seed), []
    while pairs := bracket.pairs():
        rounds.append(pairs)
        bracket.tell([float(a > b) for a, b in pairs])
    return bracket, rounds


@pytest.mark.parametrize("num_entries", range(1, 34))
def test_the_best_wins_in_fewer_matches_than_entries(num_entries: int) -> None:
    bracket, rounds = play(num_entries)
    assert bracket.winner == num_entries - 1
    assert bracket.num_matches == num_entries - 1
    assert len(rounds) == math.ceil(math.log2(num_entries))
    losers = [min(pair) for pairs in rounds for pair in pairs]
    assert sorted(losers) == list(range(num_entries - 1))  # everybody else loses once
    for pairs in rounds:
        met = Counter(entry for pair in pairs for entry in pair)
        assert max(met.values()) == 1


@pytest.mark.parametrize("num_entries", [3, 5, 7, 11, 21, 33])
def test_nobody_rests_twice_while_somebody_did_not(num_entries: int) -> None:
    for seed in range(20):
        _, rounds = play(num_entries, seed=seed)
        left, rested = set(range(num_entries)), Counter[int]()
        for pairs in rounds:
            playing = {entry for pair in pairs for entry in pair}
            resting = left - playing
            assert len(resting) == len(left) % 2
            for entry in resting:
                assert rested[entry] == min(rested[other] for other in left)
                rested[entry] += 1
            left -= {min(pair) for pair in pairs}


def test_a_bracket_is_decided_by_its_seed() -> None:
    assert play(16, seed=3)[1] == play(16, seed=3)[1]
    assert play(16, seed=3)[1] != play(16, seed=4)[1]


def test_ties_are_decided_by_lot() -> None:
    def winner(seed: int) -> int | None:
        bracket = Bracket(2, seed=seed)
        bracket.tell([0.5])
        return bracket.winner

    assert {winner(seed) for seed in range(20)} == {0, 1}


def test_a_bracket_wants_an_outcome_for_each_match() -> None:
    with pytest.raises(ValueError, match="the round has 2 matches, got 1"):
        Bracket(4, seed=0).tell([1.0])
    with pytest.raises(ValueError, match="needs an entry"):
        Bracket(0, seed=0)


# ---------------------------------------------------------------- within a group


def finished(schedule: Schedule) -> Schedule:
    """The higher number always wins."""
    while pairs := schedule.pairs():
        schedule.tell([float(a > b) for a, b in pairs])
    return schedule


def test_a_small_group_meets_all_against_all() -> None:
    schedule = finished(Schedule(4, seed=0))
    assert len(schedule.met) == 6
    assert schedule.scores().tolist() == [0.0, 1 / 3, 2 / 3, 1.0]


@pytest.mark.parametrize("size", [5, 8, 9, 16, 32])
def test_a_large_group_takes_a_number_of_comparisons_that_grows_with_its_size(size: int) -> None:
    schedule = finished(Schedule(size, seed=1, rounds=4))
    assert len(schedule.met) == 4 * (size // 2)
    pairs = {frozenset(pair) for pair in schedule.met}
    assert len(pairs) == len(schedule.met)  # nobody meets the same one twice
    scores = schedule.scores()
    assert ((scores > 0) & (scores < 1)).all()
    assert scores.mean() == pytest.approx(0.5, abs=1e-9)
    ranks = np.argsort(np.argsort(scores))
    assert np.corrcoef(ranks, np.arange(size))[0, 1] > 0.8
    assert int(np.argmax(scores)) >= size - 2  # after four rounds two of 32 may be unbeaten


@pytest.mark.parametrize("size", [5, 6, 7, 8, 9, 12])
def test_everybody_meets_as_many_others_as_can_be(size: int) -> None:
    rounds = 3
    for seed in range(100):
        schedule = finished(Schedule(size, seed=seed, rounds=rounds))
        pairs = [frozenset(pair) for pair in schedule.met]
        assert len(set(pairs)) == len(pairs) == rounds * (size // 2)
        times = [sum(k in pair for pair in pairs) for k in range(size)]
        assert set(times) <= ({rounds} if size % 2 == 0 else {rounds - 1, rounds})  # nobody rests twice


def test_where_all_have_met_some_meet_again() -> None:
    schedule = finished(Schedule(6, seed=0, rounds=9))
    assert len(schedule.met) == 9 * 3
    assert {frozenset(pair) for pair in schedule.met} == {frozenset(pair) for pair in combinations(range(6), 2)}
    assert paired([3, 1, 2, 0], {frozenset((3, 1)), frozenset((2, 0))}) == [(3, 2), (1, 0)]
    assert paired([3, 1, 2, 0], {frozenset((3, 2)), frozenset((3, 0)), frozenset((1, 0))}) == [(3, 1), (2, 0)]
    assert paired([3, 1, 2, 0], {frozenset((2, 0)), frozenset((3, 2))}) == [(3, 0), (1, 2)]  # not the next one


def test_shares_by_hand() -> None:
    assert win_shares(3, [(0, 1), (1, 0)], [1.0, 0.5]).tolist() == [0.75, 0.25, 0.5]


# ---------------------------------------------------------------- Bradley-Terry


def test_two_answers_have_the_known_solution() -> None:
    """Three wins of four, and prior p on both sides: the derivative of the posterior is 0 at the strengths found."""
    prior = 0.5
    s = bradley_terry_fit(2, [(0, 1)] * 4, [1.0, 1.0, 1.0, 0.0], prior=prior)
    assert s[0] == pytest.approx(-s[1], abs=1e-12)

    def slope(x: float) -> float:  # of the log-posterior by s_0 = x = -s_1
        sigma = 1 / (1 + math.exp(-2 * x))
        own = 1 / (1 + math.exp(-x))
        return 3 * (1 - sigma) - sigma + prior * (1 - own) - prior * own

    assert slope(s[0]) == pytest.approx(0.0, abs=1e-8)


def test_outcomes_as_often_as_strengths_say_give_these_strengths_back() -> None:
    true = np.array([-1.0, 0.0, 0.3, 0.7])
    pairs = [(a, b) for a in range(4) for b in range(a)]
    outcomes = [1 / (1 + math.exp(true[b] - true[a])) for a, b in pairs]
    found = bradley_terry_fit(4, pairs, outcomes, prior=1e-9, tolerance=1e-13)
    assert found.tolist() == pytest.approx((true - true.mean()).tolist(), abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from([0.0, 0.5, 1.0])), max_size=12))
def test_strengths_are_finite_and_of_mean_zero(games: list[tuple[int, int, float]]) -> None:
    games = [game for game in games if game[0] != game[1]]
    s = bradley_terry_fit(5, [(a, b) for a, b, _ in games], [outcome for *_, outcome in games])
    assert np.isfinite(s).all()
    assert abs(float(s.mean())) < 1e-9
    mirrored = bradley_terry_fit(5, [(b, a) for a, b, _ in games], [1.0 - outcome for *_, outcome in games])
    assert s.tolist() == pytest.approx(mirrored.tolist(), abs=1e-8)


def test_a_prior_is_needed() -> None:
    with pytest.raises(ValueError, match="above 0"):
        bradley_terry_fit(2, [(0, 1)], [1.0], prior=0.0)
