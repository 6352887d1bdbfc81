"""Turns on a shared cluster, and why somebody waits, as plain functions."""

from __future__ import annotations

from services.cluster.gate import LEASE_S, Gate, Place
from services.cluster.room import bundle_of, what_lacks, why
from services.cluster.session import Needs

TWO_ENGINES = Needs(((1.0, 2.0), (1.0, 2.0), (2.0, 1.0)))


def test_one_after_the_other_in_the_order_in_which_they_came() -> None:
    gate = Gate()
    assert gate.ask("a", 0.0) == Place(True, (), ())
    assert gate.ask("b", 1.0) == Place(False, ("a",), ())
    assert gate.ask("c", 2.0) == Place(False, ("a", "b"), ())
    assert gate.ask("b", 3.0) == Place(False, ("a",), ())  # asking again changes nothing
    gate.settle("a", 4.0)
    assert gate.ask("b", 5.0) == Place(True, (), ("a",))
    gate.leave("a")
    assert gate.ask("c", 6.0) == Place(False, ("b",), ())


def test_who_is_not_heard_of_loses_its_turn() -> None:
    gate = Gate()
    gate.ask("a", 0.0)
    gate.ask("b", 1.0)
    gate.settle("old", 1.0)
    assert gate.ask("b", LEASE_S).turn is False
    assert gate.ask("b", LEASE_S + 0.1) == Place(True, (), ("old",))
    assert gate.ask("b", LEASE_S + 1.1).at_work == ()


def test_a_run_whose_next_stage_waits_is_at_the_end_of_the_queue() -> None:
    gate = Gate()
    gate.settle("a", 0.0)
    gate.ask("b", 1.0)
    assert gate.ask("a", 2.0) == Place(False, ("b",), ())


def test_what_even_an_empty_cluster_lacks() -> None:
    assert what_lacks(TWO_ENGINES, [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}]) == ""
    assert what_lacks(TWO_ENGINES, [{"CPU": 3.0, "GPU": 4.0}]) == (
        "the recipe asks for 4 CPUs and 5 GPUs at once, but the cluster has 3 CPUs and 4 GPUs"
    )
    assert "one actor of the recipe needs 1 CPUs and 2 GPUs on one node" in what_lacks(
        TWO_ENGINES, [{"CPU": 4.0, "GPU": 1.0}] * 6
    )


def test_why_a_run_waits_that_would_fit() -> None:
    assert why(TWO_ENGINES, Place(False, ("a",), ("c",)), {}) == "a came first and is placed before it; at work: c"
    assert why(TWO_ENGINES, Place(True, (), ("c",)), {"CPU": 3.0, "GPU": 1.0}) == (
        "it needs 4 CPUs and 5 GPUs at once, and 3 CPUs and 1 GPUs are free; at work: c"
    )


def test_needs_add_up_and_cover_both() -> None:
    assert (TWO_ENGINES.num_cpus, TWO_ENGINES.num_gpus) == (4.0, 5.0)
    both = TWO_ENGINES.largest(Needs(((7.0, 0.0),)))
    assert (both.num_cpus, both.num_gpus) == (7.0, 5.0)
    assert Needs().largest(TWO_ENGINES) == TWO_ENGINES
    assert bundle_of(1.0, 0.0) == {"CPU": 1.0}
    assert bundle_of(0.0, 0.0) == {"CPU": 0.001}
