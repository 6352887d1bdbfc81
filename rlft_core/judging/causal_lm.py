"""A language model as a judge: the log-probs of the two labels that its answer may be, in both orders.

Runs in this process, on a CPU or the first GPU; judge actors on engines are another implementation of the same protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rlft_core.batching.sharing import share_beginnings
from rlft_core.errors import JudgeError
from rlft_core.judging.protocol import Comparison, Verdict
from rlft_core.judging.questions import Questioner, Tokens
from rlft_core.judging.template import JudgeTemplate, load_template
from rlft_core.logprobs import token_logprobs
from rlft_core.models.attention import attention_kind, to_device
from rlft_core.models.compute import Compute, quick_dtype
from rlft_core.models.loading import load_lm, load_tokenizer, round_matrices
from rlft_core.models.packable import why_not_packable
from rlft_core.models.policy import Policy

DEFAULT_TEMPLATE = "better-answer"
_BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class CausalLmJudge:
    """`questions` says what is asked; `compute` how prompts are packed."""

    model: Policy
    questions: Questioner
    compute: Compute

    @classmethod
    def load(
        cls,
        source: str,
        *,
        template: JudgeTemplate | None = None,
        principles: Sequence[str] | None = None,
        dtype: torch.dtype | None = None,
        trust_remote_code: bool = False,
    ) -> CausalLmJudge:
        """A model folder or hub id; `dtype` is that of its matrix products, by default what is quick here; `principles`: all of
        the template's, if not given.

        Raises ModelError, ConfigError, or JudgeError when a label is no single token of its tokenizer.
        """
        template = template or load_template(DEFAULT_TEMPLATE)
        tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = dtype or quick_dtype(device)
        attention = attention_kind(device)
        model = Policy(load_lm(source, attention=attention, trust_remote_code=trust_remote_code)).to(device)
        model.requires_grad_(False)
        packing = why_not_packable(model, attention=attention, max_row_tokens=_BATCH_TOKENS) is None
        round_matrices(model, dtype)
        compute = Compute(device, dtype, attention, packing, _BATCH_TOKENS, _BATCH_TOKENS)
        # One place is the label's. A prompt must also fit into a batch of its own.
        longest = min(int(getattr(model.inner.config, "max_position_embeddings", _BATCH_TOKENS)), _BATCH_TOKENS) - 1
        return cls(
            model, Questioner.of(template, Tokens(tokenizer), principles=principles, max_length=longest), compute
        )

    @property
    def num_truncated(self) -> int:
        return self.questions.num_truncated

    @torch.inference_mode()
    def compare(self, comparisons: Sequence[Comparison]) -> list[Verdict]:
        return self.questions.verdicts(comparisons, self._label_probabilities(self.questions.prompts(comparisons)))

    def _label_probabilities(self, prompts: Sequence[list[int]]) -> list[tuple[float, float]]:
        """For each prompt, the probabilities of both labels among all tokens. Raises JudgeError for what is no number."""
        first, second = self.questions.labels
        logprobs = torch.zeros(len(prompts), 2)
        head = self.model.output_layer
        with self.compute.autocast():
            for micro in self.compute.rows(share_beginnings([(prompt, [first]) for prompt in prompts])):
                rows = to_device(micro, self.compute.device, self.compute.attention)
                found = self.model(rows)
                others = torch.full_like(rows.targets, second)
                other = token_logprobs(found.hidden, head.weight, others, bias=head.bias, with_entropy=False)
                both = torch.stack([found.logprobs, other.logprobs], dim=1)
                logprobs[rows.tokens.cpu()] = both.float().cpu()
        if not torch.isfinite(logprobs).all():
            raise JudgeError("the judge gave a probability that is no number; its weights are broken")
        return [(of_first, of_second) for of_first, of_second in logprobs.double().exp().tolist()]
