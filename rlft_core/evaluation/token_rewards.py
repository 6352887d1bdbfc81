"""What a reward model's values say of single tokens, on texts of which it is known where they were edited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from rlft_core.config.stages import RewardModelStage
from rlft_core.evaluation.localisation import MarkedText, localisation_report
from rlft_core.models.reward_model import RewardFacts
from rlft_core.rewards.spans import token_ends
from rlft_core.updates.reward_texts import TokenContrast

_SHOWN_PAIRS = 16


def found_tokens(
    entries: Sequence[Sequence[np.ndarray]], contrasts: Sequence[TokenContrast], stage: RewardModelStage, *, seed: int
) -> dict[str, Any] | None:
    """How well the model finds the touched tokens: `worse`, low rewards in the worse texts; `better`, high ones in the
    better texts; each as `localisation_report`. None when no contrast says where its texts differ, or when no pair is an
    edit: two texts of which more than half differs are two texts, and which of their tokens are bad nobody has said.

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
            if 2 * sum(map(len, changed)) > len(contrast.positive) + len(contrast.negatives[number]):
                continue
            values = texts[1 + number] if worse else texts[0]
            rewards = values[1:] if stage.level == "token" else np.diff(values)
            touched = np.zeros(len(rewards), dtype=bool)
            touched[list(changed[1 if worse else 0])] = True
            yield MarkedText(contrast.kinds[number], -rewards if worse else rewards, touched)


def shown_tokens(
    entries: Sequence[Sequence[np.ndarray]], measured: Sequence[TokenContrast], facts: RewardFacts, tokenizer: Any
) -> list[dict[str, Any]]:
    """Some pairs with the reward of every token, for a person to look at: the kinds in turn."""
    places = {(contrast.kinds[k], i): k for i, contrast in enumerate(measured) for k in range(len(contrast.negatives))}
    kinds = sorted({kind for kind, _ in places})
    chosen = [[(kind, i, k) for (kind, i), k in places.items() if kind == wanted] for wanted in kinds]
    turns = [pair for pairs in zip_longest(*chosen) for pair in pairs if pair is not None]
    lines = []
    for kind, i, k in turns[:_SHOWN_PAIRS]:
        contrast, changed = measured[i], measured[i].changed[k]
        lines.append(
            {
                "kind": kind,
                "prompt": contrast.shown,
                "worse": _rewarded(contrast.negatives[k], entries[i][1 + k], changed[1], facts, tokenizer),
                "better": _rewarded(contrast.positive, entries[i][0], changed[0], facts, tokenizer),
            }
        )
    return lines


def _rewarded(
    ids: Sequence[int], entries: np.ndarray, touched: Sequence[int], facts: RewardFacts, tokenizer: Any
) -> list[dict[str, Any]]:
    values = np.tanh(entries[1:] / 2) if facts.squash else entries[1:]
    rewards = (values - facts.mean) / facts.std
    text, ends = tokenizer.decode(ids, skip_special_tokens=True), token_ends(tokenizer, ids)
    return [
        {"text": text[start:end], "reward": round(float(rewards[t]), 4), "touched": t in touched}
        for t, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
    ]
