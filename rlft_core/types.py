"""The values that travel between the parts: frozen, slotted, with a shape on every array.

    Prompt ──generate──▶ RolloutGroup ──score──▶ ScoredGroup ──shard──▶ Batch ──update──▶ metrics

Each stage returns a new value; nothing here is ever changed in place. Arrays are NumPy, because a NumPy
array crosses Ray's object store without a copy; the learner turns them into tensors.

Shape letters: T tokens of one completion, P tokens of a prompt, N completions of a group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a user's data: the text that goes in, the text that should come out.

    `fields` holds every column of the source row, for prompt templates and rewards. `id` is stable over runs.
    """

    id: str
    input: str
    output: str
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked of an engine: `token_ids` [P], `num_samples` completions, one `seed`.

    The seed depends on (run, step, prompt) only, so the number of engines cannot change what is asked.
    Sample k of the group is drawn with `seed + k`.
    """

    row: Row
    token_ids: tuple[int, ...]
    num_samples: int
    seed: int


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer: `token_ids` [T] int32, `logprobs` [T] float32, `versions` [T] int32.

    `logprobs` are the engine's, of the distribution really sampled from (temperature included).
    `versions` says which weights produced each token. `finish_reason` is "stop" (ended by EOS, whose id is the
    last token) or "length". `text` has the special tokens removed.
    """

    token_ids: np.ndarray
    logprobs: np.ndarray
    versions: np.ndarray
    finish_reason: str
    text: str

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """One prompt and its N completions: the unit of generation, of judging and of packing.

    `engine` names the engine that made it; `cached_tokens` counts prompt tokens found in its prefix cache.
    """

    prompt: Prompt
    completions: tuple[Completion, ...]
    engine: str = ""
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Score:
    """The task reward of one completion: `per_token` [T] float32, and what it was made of.

    A sequence score stands at the last token and is 0 elsewhere; a token-level model fills every token.
    `breakdown` holds each reward's own unweighted value by name. `skipped` names the reward that failed on this
    sample when the recipe allows some to be skipped: such a sample takes no part in the update. `dense` holds the
    unweighted values [T] of the rewards that give one for every token.
    """

    per_token: np.ndarray
    breakdown: Mapping[str, float]
    skipped: str | None = None
    dense: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return float(self.per_token.sum())


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group with one score for each completion, in the same order."""

    group: RolloutGroup
    scores: tuple[Score, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one learner rank gets for one step: its groups, and how many ranks share the step."""

    groups: tuple[ScoredGroup, ...]
    step: int
    num_ranks: int = 1
