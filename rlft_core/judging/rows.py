"""Preference pairs as rows that teach a model to judge: both orders of every pair, for every principle of a template.

The target of such a row is the judgement token alone, without an EOS (Lee et al. 2024, arXiv 2402.11253), so that the same
supervised step that imitates outputs learns to judge them. Reasons, where there are any, follow the judgement, and an EOS
follows them: a judge is still read by one token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby, product
from typing import TYPE_CHECKING

from rlft_core.data.encode import encode_target
from rlft_core.judging.template import JudgeTemplate
from rlft_core.negatives.types import Contrast
from rlft_core.types import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOO_LONG = "comparisons longer than model.max_length"
JudgeRow = tuple[list[int], list[int]]
"""Token ids of a comparison up to the judgement, and of the judgement."""


def judge_rows(
    contrasts: Sequence[Contrast],
    template: JudgeTemplate,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    skipped: Counter[str],
    rationale_fields: tuple[str, str] | None = None,
) -> list[list[JudgeRow]]:
    """Rows for every pair of a row's output and one of its negatives; those that are too long are counted in `skipped`.

    Comparisons of one task, where contrasts with it follow each other, are together: they begin alike, and a batch that has all
    of them computes that beginning once.

    `rationale_fields`: columns of a contrast's row with the reasons for its output and against the negative.
    A pair is left out in both orders or in none, so that neither label is the more frequent one. Raises JudgeError when a
    label is no single token.
    """
    labels = template.comparing().label_ids(tokenizer)
    families: list[list[JudgeRow]] = []
    for _, contrasts_of_task in groupby(contrasts, key=lambda contrast: contrast.row.input):
        found: list[JudgeRow] = []
        for contrast in contrasts_of_task:
            reasons = _reasons(contrast.row, template, tokenizer, rationale_fields)
            for principle, negative in product(template.principles, contrast.negatives):
                texts = contrast.row.output, negative.text
                rows = [
                    (template.prompt(tokenizer, contrast.row.input, *order, principle=principle), [label, *why])
                    for order, label, why in zip((texts, texts[::-1]), labels, reasons, strict=True)
                ]
                if max(len(prompt) + len(target) for prompt, target in rows) > max_length:
                    skipped[TOO_LONG] += len(rows)
                else:
                    found += rows
        if found:
            families.append(found)
    return families


def without_equal(contrasts: Sequence[Contrast]) -> tuple[list[Contrast], int]:
    """The contrasts without negatives that read like their row's output, and how many these were: nothing tells which is better.

    Both orders of such a pair would be one prompt with opposite labels.
    """
    found, num_equal = [], 0
    for contrast in contrasts:
        kept = tuple(n for n in contrast.negatives if n.text.strip() != contrast.row.output.strip())
        num_equal += len(contrast.negatives) - len(kept)
        found.append(Contrast(contrast.row, kept))
    return found, num_equal


def _reasons(
    row: Row, template: JudgeTemplate, tokenizer: PreTrainedTokenizerBase, fields: tuple[str, str] | None
) -> tuple[list[int], list[int]]:
    """What follows the label in each order."""
    if fields is None:
        return [], []
    good, bad = (str(row.fields[field]) for field in fields)
    first, second = (encode_target(tokenizer, template.reasons(*order)) for order in ((good, bad), (bad, good)))
    return first, second
