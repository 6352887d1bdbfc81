"""From comparisons to the prompts that a language model is asked, and from its answers to verdicts.

    comparison ─▶ two orders x principles ─▶ token ids ─▶ [a model: p of both labels] ─▶ verdict

What is asked does not depend on who runs the model: transformers in this process, or an engine in an actor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from rlft_core.errors import JudgeError
from rlft_core.judging.protocol import TIE, Comparison, Verdict, combined
from rlft_core.judging.template import JudgeTemplate
from rlft_core.types import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HALF_A_CHARACTER = "\ufffd"


@dataclass
class Asking(ABC):
    """Asks by `principles` of a template; `labels` are the token ids of its labels, `max_length` the most tokens of a prompt.

    What is longer is cut: first the task, from its end, then the responses to one length. `num_truncated` counts how often.
    """

    template: JudgeTemplate
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[int, ...]
    principles: tuple[str, ...]
    max_length: int
    num_truncated: int = 0

    @classmethod
    def of(
        cls,
        template: JudgeTemplate,
        tokenizer: PreTrainedTokenizerBase,
        *,
        principles: Sequence[str] | None = None,
        max_length: int,
    ) -> Self:
        """By all principles of the template, or those named. Raises ConfigError for an unknown one or a template of the other
        form, JudgeError when a label is no single token of this tokenizer."""
        chosen = template.chosen(principles)
        return cls(template, tokenizer, template.label_ids(tokenizer), chosen, max_length)

    @abstractmethod
    def _prompts(self, context: str, responses: Sequence[str]) -> list[list[int]]:
        """All prompts about these texts."""

    def _fitting(self, row: Row, responses: Sequence[str]) -> list[list[int]]:
        """The prompts about some responses, cut so that every one fits. All prompts show the same texts."""
        context, texts = row.input, list(responses)
        prompts = self._prompts(context, texts)
        excess = self._excess(prompts)
        self.num_truncated += excess > 0
        while excess > 0:
            longest = max(map(self._count, texts))
            if self._count(context):
                context = self._cut(context, self._count(context) - excess)
            elif longest > 1:
                texts = [self._cut(text, longest - max(1, excess // len(texts))) for text in texts]
            else:
                raise JudgeError(
                    f"row '{row.id}': the judge's template '{self.template.name}' alone is longer than the "
                    f"{self.max_length} tokens it may take; use a shorter template, or a judge with a longer context"
                )
            prompts = self._prompts(context, texts)
            excess = self._excess(prompts)
        return prompts

    def _excess(self, prompts: Sequence[list[int]]) -> int:
        return max(map(len, prompts)) - self.max_length

    def _count(self, text: str) -> int:
        return len(self._ids(text))

    def _cut(self, text: str, num_tokens: int) -> str:
        """The text's first tokens, without half a character at the end."""
        kept = self.tokenizer.decode(self._ids(text)[: max(0, num_tokens)])
        return str(kept).rstrip(_HALF_A_CHARACTER)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


class Questioner(Asking):
    """Which of two answers is the better one: both orders by every principle."""

    @classmethod
    def of(cls, template: JudgeTemplate, *args: Any, **keys: Any) -> Self:
        """As `Asking.of`, for a template that compares."""
        return super().of(template.comparing(), *args, **keys)

    def prompts(self, comparisons: Sequence[Comparison]) -> list[list[int]]:
        """Token ids that a label continues; none for equal answers. Raises JudgeError when not even the cut answers fit."""
        asked = [pair for pair in comparisons if pair.a != pair.b]
        return [prompt for pair in asked for prompt in self._fitting(pair.row, (pair.a.text, pair.b.text))]

    def verdicts(self, comparisons: Sequence[Comparison], probabilities: Sequence[Sequence[float]]) -> list[Verdict]:
        """One for each comparison, from the probabilities of both labels after each of its `prompts`."""
        answers = iter(probabilities)
        return [self._verdict(answers) if pair.a != pair.b else TIE for pair in comparisons]

    def _verdict(self, answers: Iterator[Sequence[float]]) -> Verdict:
        parts = []
        for _ in self.principles:
            (a, b), (of_b, of_a) = next(answers), next(answers)
            parts.append(Verdict((a, b), (of_a, of_b)))
        return combined(parts)

    def _prompts(self, context: str, responses: Sequence[str]) -> list[list[int]]:
        a, b = responses
        return [
            self.template.prompt(self.tokenizer, context, *order, principle=principle)
            for principle in self.principles
            for order in ((a, b), (b, a))
        ]
