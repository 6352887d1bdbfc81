"""From comparisons to the prompts that a language model is asked, and from its answers to verdicts.

    comparison ─▶ two orders x principles ─▶ token ids ─▶ [a model: p of both labels] ─▶ verdict

What is asked does not depend on who runs the model: transformers in this process, or an engine in an actor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlft_core.errors import ConfigError, JudgeError
from rlft_core.judging.protocol import TIE, Comparison, Verdict, combined
from rlft_core.judging.template import JudgeTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HALF_A_CHARACTER = "\ufffd"


@dataclass(slots=True)
class Questioner:
    """Asks by `principles` of a template; `labels` are the token ids of its labels, `max_length` the most tokens of a prompt.

    What is longer is cut: first the task, from its end, then both answers to one length. `num_truncated` counts comparisons.
    """

    template: JudgeTemplate
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[int, int]
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
    ) -> Questioner:
        """By all principles of the template, or those named. Raises ConfigError for an unknown one, JudgeError when a label
        is no single token of this tokenizer."""
        chosen = tuple(template.principles if principles is None else principles)
        unknown = [name for name in chosen if name not in template.principles]
        if unknown or not chosen:
            there = ", ".join(f"'{name}'" for name in template.principles)
            told = f"has no principle '{unknown[0]}'" if unknown else "is asked by no principle"
            raise ConfigError(f"judge template '{template.name}' {told}; there are: {there}")
        return cls(template, tokenizer, template.label_ids(tokenizer), chosen, max_length)

    def prompts(self, comparisons: Sequence[Comparison]) -> list[list[int]]:
        """Token ids that a label continues: both orders by every principle; none for equal answers.

        Raises JudgeError when not even the cut answers fit.
        """
        return [prompt for pair in comparisons if pair.a != pair.b for prompt in self._prompts(*self._fitting(pair))]

    def verdicts(
        self, comparisons: Sequence[Comparison], probabilities: Sequence[tuple[float, float]]
    ) -> list[Verdict]:
        """One for each comparison, from the probabilities of both labels after each of its `prompts`."""
        answers = iter(probabilities)
        found = []
        for pair in comparisons:
            if pair.a == pair.b:
                found.append(TIE)
                continue
            parts = []
            for _ in self.principles:
                a_first, (of_b, of_a) = next(answers), next(answers)
                parts.append(Verdict(a_first, (of_a, of_b)))
            found.append(combined(parts))
        return found

    def _prompts(self, context: str, a: str, b: str) -> list[list[int]]:
        return [
            self.template.prompt(self.tokenizer, context, *order, principle=principle)
            for principle in self.principles
            for order in ((a, b), (b, a))
        ]

    def _fitting(self, pair: Comparison) -> tuple[str, str, str]:
        """Task and answers, cut so that every prompt fits. Both orders see the same texts."""
        context, a, b = pair.row.input, pair.a.text, pair.b.text
        excess = self._excess(context, a, b)
        self.num_truncated += excess > 0
        while excess > 0:
            longer = max(self._count(a), self._count(b))
            if self._count(context):
                context = self._cut(context, self._count(context) - excess)
            elif longer > 1:
                a, b = (self._cut(text, longer - max(1, excess // 2)) for text in (a, b))
            else:
                raise JudgeError(
                    f"row '{pair.row.id}': the judge's template '{self.template.name}' alone is longer than the "
                    f"{self.max_length} tokens it may take; use a shorter template, or a judge with a longer context"
                )
            excess = self._excess(context, a, b)
        return context, a, b

    def _excess(self, context: str, a: str, b: str) -> int:
        return max(len(prompt) for prompt in self._prompts(context, a, b)) - self.max_length

    def _count(self, text: str) -> int:
        return len(self._ids(text))

    def _cut(self, text: str, num_tokens: int) -> str:
        """The text's first tokens, without half a character at the end."""
        kept = self.tokenizer.decode(self._ids(text)[: max(0, num_tokens)])
        return str(kept).rstrip(_HALF_A_CHARACTER)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
