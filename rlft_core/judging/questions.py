"""From comparisons to the prompts that a language model is asked, and from its answers to verdicts.

    comparison ─▶ two orders x principles ─▶ prompts ─▶ [a model: p of both labels] ─▶ verdict

What is asked does not depend on who runs the model: transformers in this process, an engine in an actor, or somebody else's
service. How a prompt looks does: token ids for a model of ours (`Tokens`), messages for a service (`judging/chat.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from rlft_core.data.encode import plain_ids
from rlft_core.errors import JudgeError
from rlft_core.judging.protocol import TIE, Comparison, Verdict, combined
from rlft_core.judging.template import JudgeTemplate
from rlft_core.types import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HALF_A_CHARACTER = "\ufffd"


class Medium(Protocol):
    """How prompts are written, and how long texts are, in tokens or in characters."""

    @property
    def unit(self) -> str:
        """What lengths are counted in, in the plural."""

    def labels(self, template: JudgeTemplate) -> tuple[Any, ...]:
        """What the answer may be. Raises JudgeError when the medium cannot tell these apart."""

    def prompt(self, template: JudgeTemplate, context: str, *responses: str, principle: str) -> Any:
        """What a label continues."""

    def size(self, prompt: Any) -> int:
        """Length of a prompt."""

    def count(self, text: str) -> int:
        """Length of a text."""

    def cut(self, text: str, size: int) -> str:
        """The beginning of a text."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Prompts are token ids, and so are labels."""

    tokenizer: PreTrainedTokenizerBase
    unit: str = "tokens"

    def labels(self, template: JudgeTemplate) -> tuple[int, ...]:
        return template.label_ids(self.tokenizer)

    def prompt(self, template: JudgeTemplate, context: str, *responses: str, principle: str) -> list[int]:
        return template.prompt(self.tokenizer, context, *responses, principle=principle)

    def size(self, prompt: list[int]) -> int:
        return len(prompt)

    def count(self, text: str) -> int:
        return len(self._ids(text))

    def cut(self, text: str, size: int) -> str:
        """Without half a character at the end."""
        return str(self.tokenizer.decode(self._ids(text)[: max(0, size)])).rstrip(_HALF_A_CHARACTER)

    def _ids(self, text: str) -> list[int]:
        return plain_ids(self.tokenizer, text)


@dataclass
class Asking(ABC):
    """Asks by `principles` of a template; `labels` are what may be answered, `max_length` is the longest prompt.

    What is longer is cut: first the task, from its end, then the responses to one length. `num_truncated` counts how often.
    """

    template: JudgeTemplate
    medium: Medium
    labels: tuple[Any, ...]
    principles: tuple[str, ...]
    max_length: int
    num_truncated: int = 0

    @classmethod
    def of(
        cls,
        template: JudgeTemplate,
        medium: Medium,
        *,
        principles: Sequence[str] | None = None,
        max_length: int,
    ) -> Self:
        """By all principles of the template, or those named. Raises ConfigError for an unknown one or a template of the other
        form, JudgeError when a label is no single token of a tokenizer."""
        return cls(template, medium, medium.labels(template), template.chosen(principles), max_length)

    @abstractmethod
    def _prompts(self, context: str, responses: Sequence[str]) -> list[Any]:
        """All prompts about these texts."""

    def _fitting(self, row: Row, responses: Sequence[str]) -> list[Any]:
        """The prompts about some responses, cut so that every one fits. All prompts show the same texts."""
        count, cut = self.medium.count, self.medium.cut
        context, texts = row.input, list(responses)
        prompts = self._prompts(context, texts)
        excess = self._excess(prompts)
        self.num_truncated += excess > 0
        while excess > 0:
            longest = max(map(count, texts))
            if count(context):
                context = cut(context, count(context) - excess)
            elif longest > 1:
                texts = [cut(text, longest - max(1, excess // len(texts))) for text in texts]
            else:
                raise JudgeError(
                    f"row '{row.id}': the judge's template '{self.template.name}' alone is longer than the "
                    f"{self.max_length} {self.medium.unit} it may take; use a shorter template, or a judge with a longer context"
                )
            prompts = self._prompts(context, texts)
            excess = self._excess(prompts)
        return prompts

    def _excess(self, prompts: Sequence[Any]) -> int:
        return max(map(self.medium.size, prompts)) - self.max_length


class Questioner(Asking):
    """Which of two answers is the better one: both orders by every principle."""

    @classmethod
    def of(cls, template: JudgeTemplate, *args: Any, **keys: Any) -> Self:
        """As `Asking.of`, for a template that compares."""
        return super().of(template.comparing(), *args, **keys)

    def prompts(self, comparisons: Sequence[Comparison]) -> list[Any]:
        """What a label continues; none for equal answers. Raises JudgeError when not even the cut answers fit."""
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

    def _prompts(self, context: str, responses: Sequence[str]) -> list[Any]:
        a, b = responses
        return [
            self.medium.prompt(self.template, context, *order, principle=principle)
            for principle in self.principles
            for order in ((a, b), (b, a))
        ]
