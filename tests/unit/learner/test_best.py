"""Which weights of a supervised stage are the best, and how they become its model."""

from __future__ import annotations

import math
from pathlib import Path

from services.learner.saving import promote
from services.learner.sft_worker import Best


def test_the_lowest_loss_is_remembered_and_what_came_after_is_counted() -> None:
    best = Best()
    for step, loss in ((10, 3.0), (20, 2.5), (25, None), (30, 2.5), (40, 2.7)):
        best = best.after(step, loss)
    assert best == Best(2.5, 20, 2)  # an equal loss is no new best, and no measurement is no miss
    assert best.after(50, 2.4) == Best(2.4, 50, 0)


def test_a_loss_that_is_no_number_is_never_the_best() -> None:
    assert Best().after(10, math.nan).step == -1
    assert Best(2.0, 5).after(10, math.nan) == Best(2.0, 5, 1)


def test_it_survives_a_checkpoint() -> None:
    assert Best.from_facts(Best(2.5, 20, 1).facts()) == Best(2.5, 20, 1)
    assert Best.from_facts({}) == Best.from_facts(Best().facts()) == Best()


def test_the_best_model_replaces_what_was_there_also_a_second_time(tmp_path: Path) -> None:
    for name, text in (("best", "good"), ("model", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text(text)
    (tmp_path / "model" / "stale.json").write_text("{}")
    for _ in range(2):  # a run that was killed after the first time does it again
        promote(tmp_path, "best")
        assert [file.name for file in (tmp_path / "model").iterdir()] == ["model.safetensors"]
        assert (tmp_path / "model" / "model.safetensors").read_text() == "good"
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["best", "model"]
