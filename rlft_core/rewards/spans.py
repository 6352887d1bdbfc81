"""A user's function that rewards places in a text, and how characters become tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlft_core.config.rewards import CustomConfig
from rlft_core.rewards.custom import load_function
from rlft_core.rewards.protocol import Sample, TokenRewards

UNFINISHED = "\ufffd"
"""What decoding makes of bytes that are no whole character."""


@dataclass(frozen=True, slots=True)
class SpanReward:
    """`function(sample, **params)` returns (start, end, value) for places in `sample.text`; `tokenizer` is the policy's."""

    config: CustomConfig
    function: Callable[..., Any]
    tokenizer: Any

    @classmethod
    def from_config(cls, config: CustomConfig, tokenizer: Any) -> SpanReward:
        """Import the function. ConfigError as in `load_function`."""
        return cls(config, load_function(config), tokenizer)

    @property
    def name(self) -> str:
        return self.config.label

    def __call__(self, samples: Sequence[Sample]) -> list[TokenRewards]:
        return [self._reward(sample) for sample in samples]

    def _reward(self, sample: Sample) -> TokenRewards:
        spans = checked_spans(self.function(sample, **self.config.params), sample.text)
        total = float(sum(value for _, _, value in spans))
        ends = token_ends(self.tokenizer, sample.token_ids.tolist())
        if not ends or ends[-1] != len(sample.text):
            return TokenRewards(total, None)
        return TokenRewards(total, shared(spans, ends))


def checked_spans(found: object, text: str) -> list[tuple[int, int, float]]:
    """The spans themselves. Raises ValueError, which becomes a RewardError, for what is none, or lies outside the text."""
    if not isinstance(found, list | tuple):
        raise ValueError(f"returned {type(found).__name__} {found!r:.100}, not a list of (start, end, value)")
    spans = []
    for span in found:
        try:
            start, end, value = span
            spans.append((int(start), int(end), float(value)))
        except (TypeError, ValueError) as error:
            raise ValueError(f"returned the span {span!r:.100}, which is no (start, end, value)") from error
        if not 0 <= spans[-1][0] < spans[-1][1] <= len(text):
            raise ValueError(f"returned the span {span!r:.100}, but the text has {len(text)} characters")
    return spans


def shared(spans: Sequence[tuple[int, int, float]], ends: Sequence[int]) -> np.ndarray:
    """[T] what each token earns: every span's value in equal parts for the tokens it touches.

    `ends` [T]: where each token's text ends; a token without text of its own is touched by nothing.
    """
    stops = np.asarray(ends)
    starts = np.concatenate([[0], stops[:-1]])
    earned = np.zeros(len(stops))
    for start, end, value in spans:
        touched = (starts < end) & (stops > start) & (stops > starts)
        earned[touched] += value / touched.sum()
    return earned.astype(np.float32)


def token_ends(tokenizer: Any, token_ids: Sequence[int]) -> list[int]:
    """[T] how many characters the text has after each token; special tokens have none.

    A token that ends inside a character adds nothing, the one that completes it all of it. Decodes a few tokens at a
    time, because some tokenizers write a token differently at the beginning of a text.
    """
    ends: list[int] = []
    first = read = length = 0
    for index in range(len(token_ids)):
        before = tokenizer.decode(token_ids[first:read], skip_special_tokens=True)
        now = tokenizer.decode(token_ids[first : index + 1], skip_special_tokens=True)
        if not now.endswith(UNFINISHED) or index == len(token_ids) - 1:
            length += len(now) - len(before)
            first, read = read, index + 1
        ends.append(length)
    return ends
