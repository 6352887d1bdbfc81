"""A language model as a judge: the log-probs of the two labels that its answer may be, in both orders.

Runs in this process, on a CPU or the first GPU; judge actors on engines are another implementation of the same protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from rlft_core.batching.packing import number_tokens
from rlft_core.errors import JudgeError
from rlft_core.judging.protocol import TIE, Answer, Comparison, Verdict
from rlft_core.judging.template import JudgeTemplate, load_template
from rlft_core.models.attention import attention_kind, to_device
from rlft_core.models.compute import Compute
from rlft_core.models.loading import load_lm, load_tokenizer, round_matrices
from rlft_core.models.packable import why_not_packable
from rlft_core.models.policy import Policy
from rlft_core.types import Row

DEFAULT_TEMPLATE = "better-answer"
_BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class CausalLmJudge:
    """`labels` are the token ids of the template's labels; `principle` is the one that is judged by."""

    model: Policy
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[int, int]
    compute: Compute
    template: JudgeTemplate
    principle: str
    max_length: int = 4096

    @classmethod
    def load(
        cls,
        source: str,
        *,
        template: JudgeTemplate | None = None,
        principle: str | None = None,
        dtype: torch.dtype = torch.bfloat16,
        trust_remote_code: bool = False,
    ) -> CausalLmJudge:
        """A model folder or hub id; `dtype` is that of its matrix products; `principle`: the template's first, if not given.

        Raises ModelError, or JudgeError when a label is no single token of its tokenizer.
        """
        template = template or load_template(DEFAULT_TEMPLATE)
        tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
        labels = template.label_ids(tokenizer)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        attention = attention_kind(device)
        model = Policy(load_lm(source, attention=attention, trust_remote_code=trust_remote_code)).to(device)
        model.requires_grad_(False)
        packing = why_not_packable(model, attention=attention, max_row_tokens=_BATCH_TOKENS) is None
        round_matrices(model, dtype)
        compute = Compute(device, dtype, attention, packing, _BATCH_TOKENS, _BATCH_TOKENS)
        longest = int(getattr(model.inner.config, "max_position_embeddings", 4096))
        chosen = next(iter(template.principles)) if principle is None else principle
        return cls(model, tokenizer, labels, compute, template, chosen, longest)

    @torch.inference_mode()
    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        asked = [index for index, pair in enumerate(comparisons) if pair.a != pair.b]
        prompts = []
        for index in asked:
            pair = comparisons[index]
            prompts += [self._prompt(pair.row, pair.a, pair.b), self._prompt(pair.row, pair.b, pair.a)]
        labels = self._label_probabilities(prompts)
        found = [TIE] * len(comparisons)
        for number, index in enumerate(asked):
            a_first, (of_b, of_a) = labels[2 * number], labels[2 * number + 1]
            found[index] = Verdict(a_first, (of_a, of_b))
        return found

    def _prompt(self, row: Row, first: Answer, second: Answer) -> list[int]:
        ids = self.template.prompt(self.tokenizer, row.input, first.text, second.text, principle=self.principle)
        if len(ids) >= self.max_length:
            raise JudgeError(
                f"row '{row.id}': task and answers have {len(ids)} tokens, more than the judge takes ({self.max_length}); use a "
                "judge with a longer context, or shorter answers"
            )
        return ids

    def _label_probabilities(self, prompts: Sequence[list[int]]) -> list[tuple[float, float]]:
        """For each prompt, the probabilities of both labels among all tokens."""
        logprobs = torch.zeros(2 * len(prompts))
        groups = number_tokens([(prompt, [[label] for label in self.labels]) for prompt in prompts])
        with self.compute.autocast():
            for micro in self.compute.rows(groups):
                rows = to_device(micro, self.compute.device, self.compute.attention)
                logprobs[rows.tokens.cpu()] = self.model(rows).logprobs.float().cpu()
        pairs = logprobs.view(-1, 2).double().exp().tolist()
        return [(first, second) for first, second in pairs]
