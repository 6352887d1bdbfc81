"""Sampling one batch ahead (`max_lag: 1`) with a real engine: how old samples are, and that they are corrected for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.support import assert_each_once, here, metrics_of, ppo, recipe_content, recipe_of, run_ppo_here

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("cluster")]


def test_samples_are_at_most_one_version_old_and_weighted_for_it(base: Path, tiny_model: Path) -> None:
    run = here(base, recipe_of(recipe_content(tiny_model, ppo(max_lag=1)), "stages.ppo.sampling.max_tokens=64"))
    run_ppo_here(run)
    assert_each_once(run.folder, 5)
    found = metrics_of(run.folder, "ppo")
    assert found[0]["policy/lag"] == 0.0
    assert all(0.0 <= row["policy/lag"] <= 1.0 for row in found)
    assert max(row["policy/lag"] for row in found) > 0.0
    # The learner of step 0 has the weights that sampled; later ones are a step ahead of them.
    assert found[0]["policy/importance_raw"] == pytest.approx(1.0, abs=1e-4)
    assert max(abs(row["policy/importance_raw_max"] - 1.0) for row in found[1:]) > 0.01
    assert all(row["policy/importance"] <= row["policy/importance_raw"] + 1e-9 for row in found)
    assert all(row["sync/probe"] < 1e-4 for row in found)
