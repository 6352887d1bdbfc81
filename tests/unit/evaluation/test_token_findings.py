"""What a reward model's values say of edited tokens: by rewards, or by how a score changes; and the texts that are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlft_core.config.stages import RewardModelStage
from rlft_core.evaluation.token_rewards import found_tokens, shown_tokens
from rlft_core.models.loading import load_tokenizer
from rlft_core.models.reward_model import RewardFacts
from rlft_core.updates.reward_texts import TokenContrast

PAIR = TokenContrast((7,), (1, 2, 3), ((1, 9, 3),), ("typos",), (((1,), (1,)),), shown="the task")
#: One value before the first token, then one for each: of the better text, and of the worse one.
ENTRIES = [[np.array([0.0, 0.1, 2.0, 0.2]), np.array([5.0, 5.1, 1.0, 1.2])]]


def stage(**keys: Any) -> RewardModelStage:
    return RewardModelStage.model_validate(keys)


def test_a_model_of_tokens_is_measured_by_its_rewards() -> None:
    found = found_tokens(ENTRIES, [PAIR], stage(level="token"), seed=0)
    assert found is not None
    assert found["better"]["auc"] == 1.0  # 2.0 is the highest of the better text
    assert found["worse"]["auc"] == 1.0  # 1.0 is the lowest of the worse one
    assert found["worse"]["share"] == pytest.approx(1 / 3)


def test_a_model_of_texts_is_measured_by_how_its_score_changes() -> None:
    falls_later = [[ENTRIES[0][0], np.array([5.0, 1.0, 0.9, 0.8])]]
    found = found_tokens(falls_later, [PAIR], stage(), seed=0)
    assert found is not None
    assert found["worse"]["auc"] == 0.25  # changes -4, -.1, -.1: behind one token, beside another
    assert found_tokens(ENTRIES, [PAIR], stage(), seed=0)["worse"]["auc"] == 1.0  # type: ignore[index]


def test_without_marks_nothing_is_found() -> None:
    plain = TokenContrast((7,), (1, 2, 3), ((1, 9, 3),), ("typos",))
    assert found_tokens(ENTRIES, [plain], stage(level="token"), seed=0) is None


def test_whole_other_texts_say_nothing_of_tokens() -> None:
    rewritten = TokenContrast((7,), (1, 2, 3), ((4, 5, 3),), ("rejected",), (((0, 1), (0, 1)),))
    assert found_tokens(ENTRIES, [rewritten], stage(level="token"), seed=0) is None
    both = [
        TokenContrast((7,), (1, 2, 3), ((1, 9, 3), (4, 5, 3)), ("typos", "rejected"), (((1,), (1,)), ((0, 1), (0, 1))))
    ]
    found = found_tokens([[*ENTRIES[0], ENTRIES[0][1]]], both, stage(level="token"), seed=0)
    assert found is not None
    assert list(found["worse"]["kinds"]) == ["typos"]


def test_pairs_are_shown_kind_by_kind_with_normalised_rewards(tiny_folder: Path) -> None:
    tokenizer: Any = load_tokenizer(tiny_folder)
    good, bad = (tuple(tokenizer.encode(text, add_special_tokens=False)) for text in ("a tool", "a tol"))
    pairs = [
        TokenContrast((7,), good, (bad,), (kind,), (((1,), (1,)),), shown=f"task {k}")
        for k, kind in enumerate(("b", "b", "a"))
    ]
    entries = [[np.arange(len(text) + 1.0) for text in (good, bad)] for _ in pairs]
    lines = shown_tokens(entries, pairs, RewardFacts(mean=1.0, std=2.0), tokenizer)
    assert [(line["kind"], line["prompt"]) for line in lines] == [("a", "task 2"), ("b", "task 0"), ("b", "task 1")]
    worse = lines[0]["worse"]
    assert "".join(token["text"] for token in worse) == "a tol"
    assert [token["reward"] for token in worse] == [k / 2 for k in range(len(bad))]
    assert [token["touched"] for token in worse] == [k == 1 for k in range(len(bad))]
    squashed = shown_tokens(entries, pairs, RewardFacts(squash=True), tokenizer)
    assert squashed[0]["worse"][0]["reward"] == pytest.approx(np.tanh(0.5), abs=1e-4)
