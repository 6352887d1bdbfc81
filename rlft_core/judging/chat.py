"""Judging by somebody else's service: prompts as chat messages, and the labels' probabilities from what it replies.

A reply's first token with its likeliest alternatives gives probabilities; a reply of text alone gives all of it to the label
that it names. A reply that names none is an error: it is never a tie or a 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlft_core.data.template import render
from rlft_core.errors import JudgeError
from rlft_core.judging.template import JudgeTemplate
from rlft_core.types import Row

Message = dict[str, str]
"""{"role": ..., "content": ...}"""
_SHOWN = 120
_WRAPPING = " \t\n\r\"'`*.:()[]"


@dataclass(frozen=True, slots=True)
class Messages:
    """Prompts are chat messages that ask for a label and nothing else; labels are texts, lengths are in characters."""

    unit: str = "characters"

    def labels(self, template: JudgeTemplate) -> tuple[str, ...]:
        """Without the blanks that only matter between tokens. Raises JudgeError when two of them are the same."""
        found = tuple(label.strip() for label in template.labels)
        if "" in found or len({label.casefold() for label in found}) < len(found):
            raise JudgeError(
                f"judge template '{template.name}': its labels ({', '.join(map(repr, template.labels))}) are the same text to a "
                "service; write a template with other labels"
            )
        return found

    def prompt(self, template: JudgeTemplate, context: str, *responses: str, principle: str) -> tuple[Message, ...]:
        row = Row("", context, "", template.fields(context, *responses, principle=principle))
        asked = (
            render(template.user, row) + f"\n\nReply with one of {', '.join(self.labels(template))} and nothing else."
        )
        system = [] if template.system is None else [{"role": "system", "content": render(template.system, row)}]
        return (*system, {"role": "user", "content": asked})

    def size(self, prompt: Sequence[Message]) -> int:
        return sum(len(message["content"]) for message in prompt)

    def count(self, text: str) -> int:
        return len(text)

    def cut(self, text: str, size: int) -> str:
        return text[: max(0, size)]


def label_probabilities(
    text: str, alternatives: Sequence[tuple[str, float]] | None, labels: Sequence[str]
) -> list[float]:
    """[labels] from a reply: `alternatives` are log-probs of what its first token may have been, None when it has none.

    They count where the likeliest of them names a label; otherwise the reply begins with something else, and what its text says
    counts. Raises JudgeError, which shows the reply, when it names no label.
    """
    chances = dict.fromkeys(labels, 0.0)
    likeliest = max(alternatives or (), key=lambda found: found[1], default=("", 0.0))
    if _named(likeliest[0], labels) is not None:
        for token, logprob in alternatives or ():
            label = _named(token, labels)
            if label is not None:
                chances[label] += math.exp(logprob)
    else:
        words = text.split()
        said = _named(text, labels) or (_named(words[0], labels) if words else None)
        if said is None:
            shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
            raise JudgeError(
                f"it was to reply with one of {', '.join(labels)}, and said {shown!r}; take a model that answers at once, "
                "without thinking aloud, or say in the template how to reply"
            )
        chances[said] = 1.0
    return [chances[label] for label in labels]


def _named(text: str, labels: Sequence[str]) -> str | None:
    said = text.strip(_WRAPPING).casefold()
    return next((label for label in labels if label.casefold() == said), None)
