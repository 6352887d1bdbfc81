"""A language model as a judge: the log-probs of the two labels that its answer may be, in both orders.

Runs in this process, on a CPU or the first GPU; judge actors on engines are another implementation of the same protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedTokenizerBase

from rlft_core.batching.packing import number_tokens
from rlft_core.data.encode import encode_prompt
from rlft_core.errors import ConfigError, JudgeError
from rlft_core.judging.protocol import TIE, Answer, Comparison, Verdict
from rlft_core.models.attention import attention_kind, to_device
from rlft_core.models.compute import Compute
from rlft_core.models.loading import load_lm, load_tokenizer, round_matrices
from rlft_core.models.packable import why_not_packable
from rlft_core.models.policy import Policy
from rlft_core.types import Row

TEMPLATE = (
    "Two answers to the same task are compared.\n\n# Task\n{input}\n\n# Answer A\n{answer_a}\n\n# Answer B\n{answer_b}\n\n"
    "Which answer is more accurate, complete and better written? Reply with A or B only."
)
LABELS = ("A", "B")
_BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class CausalLmJudge:
    """`labels` are the token ids of A and B."""

    model: Policy
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[int, int]
    compute: Compute
    template: str = TEMPLATE
    max_length: int = 4096

    @classmethod
    def load(
        cls,
        source: str,
        *,
        template: str = TEMPLATE,
        dtype: torch.dtype = torch.bfloat16,
        trust_remote_code: bool = False,
    ) -> CausalLmJudge:
        """A model folder or hub id; `dtype` is that of its matrix products.

        Raises ModelError, or ConfigError when a label is no single token of its tokenizer.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        attention = attention_kind(device)
        model = Policy(load_lm(source, attention=attention, trust_remote_code=trust_remote_code)).to(device)
        model.requires_grad_(False)
        packing = why_not_packable(model, attention=attention, max_row_tokens=_BATCH_TOKENS) is None
        round_matrices(model, dtype)
        compute = Compute(device, dtype, attention, packing, _BATCH_TOKENS, _BATCH_TOKENS)
        tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
        longest = int(getattr(model.inner.config, "max_position_embeddings", 4096))
        return cls(model, tokenizer, label_ids(tokenizer), compute, template, longest)

    @torch.inference_mode()
    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        asked = [index for index, pair in enumerate(comparisons) if pair.a != pair.b]
        prompts = []
        for index in asked:
            pair = comparisons[index]
            prompts += [self._prompt(pair.row, pair.a, pair.b), self._prompt(pair.row, pair.b, pair.a)]
        first = self._first_is_better(prompts)
        found = [TIE] * len(comparisons)
        for number, index in enumerate(asked):
            found[index] = Verdict(first[2 * number], 1.0 - first[2 * number + 1])
        return found

    def _prompt(self, row: Row, first: Answer, second: Answer) -> list[int]:
        filled = replace(row, fields={**row.fields, "answer_a": first.text, "answer_b": second.text})
        ids = encode_prompt(self.tokenizer, filled, system=None, template=self.template, chat=True)
        if len(ids) >= self.max_length:
            raise JudgeError(
                f"row '{row.id}': task and answers have {len(ids)} tokens, more than the judge takes ({self.max_length}); use a "
                "judge with a longer context, or shorter answers"
            )
        return ids

    def _first_is_better(self, prompts: Sequence[list[int]]) -> list[float]:
        """For each prompt, the probability of the first label against the second."""
        logprobs = torch.zeros(2 * len(prompts))
        groups = number_tokens([(prompt, [[label] for label in self.labels]) for prompt in prompts])
        with self.compute.autocast():
            for micro in self.compute.rows(groups):
                rows = to_device(micro, self.compute.device, self.compute.attention)
                logprobs[rows.tokens.cpu()] = self.model(rows).logprobs.float().cpu()
        return [float(p) for p in torch.softmax(logprobs.view(-1, 2), dim=1)[:, 0]]


def label_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Ids of the labels. Raises ConfigError naming what the tokenizer makes of them."""
    encoded = [tokenizer.encode(label, add_special_tokens=False) for label in LABELS]
    if any(len(ids) != 1 for ids in encoded):
        told = ", ".join(
            f"{label}: {tokenizer.convert_ids_to_tokens(ids)}" for label, ids in zip(LABELS, encoded, strict=True)
        )
        raise ConfigError(
            f"the judge's tokenizer has no single tokens for A and B ({told}); use another model as the judge"
        )
    return encoded[0][0], encoded[1][0]
