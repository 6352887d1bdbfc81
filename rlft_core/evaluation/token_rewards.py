"""What a reward model's values say of single tokens, on texts of which it is known where they were edited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rlft_core.config.stages import RewardModelStage
from rlft_core.evaluation.localisation import MarkedText, localisation_report
from rlft_core.updates.reward_texts import TokenContrast


def found_tokens(
    entries: Sequence[Sequence[np.ndarray]], contrasts: Sequence[TokenContrast], stage: RewardModelStage, *, seed: int
) -> dict[str, Any] | None:
    """How well the model finds the touched tokens: `worse`, low rewards in the worse texts; `better`, high ones in the
    better texts; each as `localisation_report`. None when no contrast says where its texts differ.

    A model of whole texts has no token rewards: what it says of a token is how much the score of the text so far changes
    with it. `entries` are those of `rlft_core.updates.reward.token_entries`.
    """
    found = {
        "worse": localisation_report(list(_marked(entries, contrasts, stage, worse=True)), seed=seed),
        "better": localisation_report(list(_marked(entries, contrasts, stage, worse=False)), seed=seed),
    }
    return found if any(found.values()) else None


def _marked(
    entries: Sequence[Sequence[np.ndarray]],
    contrasts: Sequence[TokenContrast],
    stage: RewardModelStage,
    *,
    worse: bool,
) -> Iterator[MarkedText]:
    for texts, contrast in zip(entries, contrasts, strict=True):
        for number, changed in enumerate(contrast.changed):
            values = texts[1 + number] if worse else texts[0]
            rewards = values[1:] if stage.level == "token" else np.diff(values)
            touched = np.zeros(len(rewards), dtype=bool)
            touched[list(changed[1 if worse else 0])] = True
            yield MarkedText(contrast.kinds[number], -rewards if worse else rewards, touched)
