"""Rows become token ids, the same way for every stage; rows that are left out are counted and told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlft_core.batching.sharing import Pair
from rlft_core.config.recipe import Recipe
from rlft_core.data import Fitting, check_lengths, encode_prompt, encode_target
from rlft_core.edits import changed_tokens, pieces
from rlft_core.errors import DataError
from rlft_core.negatives import Contrast
from rlft_core.types import Row
from rlft_core.updates.reward_texts import Changed, TokenContrast

Notice = Callable[[str], None]
LEFT_OUT = "rows without any negative, or too long"
REWRITTEN = "changed more than min_kept allows"


def encode_prompts(
    recipe: Recipe, rows: Sequence[Row], tokenizer: Any, *, max_new_tokens: int, source: str, notice: Notice
) -> Fitting:
    """Prompts that leave room for an answer. Raises DataError for one that does not, unless it may be skipped."""
    fitting = check_lengths(
        rows,
        [_prompt_ids(recipe, row, tokenizer) for row in rows],
        max_prompt_tokens=recipe.data.max_prompt_tokens,
        max_model_len=recipe.model.max_length,
        max_new_tokens=max_new_tokens,
        too_long=recipe.data.too_long,
        source=source,
    )
    if fitting.num_skipped:
        notice(f"{source}: {fitting.num_skipped} of {len(rows)} rows have prompts that are too long and take no part")
    return fitting


def encode_pairs(recipe: Recipe, rows: Sequence[Row], tokenizer: Any, *, source: str, notice: Notice) -> list[Pair]:
    """(prompt, output) token ids. Raises DataError for a pair longer than model.max_length, unless it may be skipped."""
    limit = recipe.model.max_length
    pairs: list[Pair] = []
    for row in rows:
        ids, target = _prompt_ids(recipe, row, tokenizer), encode_target(tokenizer, row.output)
        if len(ids) + len(target) <= limit:
            pairs.append((ids, target))
        elif recipe.data.too_long == "error":
            raise DataError(
                f"{source}: prompt and output of row {row.id} have {len(ids)} + {len(target)} tokens, more than "
                f"model.max_length ({limit}); raise it, shorten the row, or set data.too_long to 'skip'"
            )
    if rows and not pairs:
        raise DataError(
            f"{source}: prompt and output of all {len(rows)} rows exceed model.max_length ({limit}); raise it"
        )
    if len(pairs) < len(rows):
        notice(
            f"{source}: {len(rows) - len(pairs)} of {len(rows)} rows are longer than {limit} tokens and take no part"
        )
    return pairs


def encode_contrasts(
    recipe: Recipe,
    contrasts: Sequence[Contrast],
    tokenizer: Any,
    *,
    skipped: Counter[str],
    marked: bool = False,
    min_kept: float = 0.0,
) -> list[TokenContrast]:
    """Token ids of references and their negatives.

    A negative that has the reference's tokens, or is longer than model.max_length, is left out and counted in `skipped`
    by kind; so is a contrast that is left without any. `marked`: also find the tokens in which the two differ; where a
    smaller share than `min_kept` is the same in both, the negative is no minimal edit, and is left out too.
    """
    limit = recipe.model.max_length
    found: list[TokenContrast] = []
    for contrast in contrasts:
        prompt, positive = _prompt_ids(recipe, contrast.row, tokenizer), encode_target(tokenizer, contrast.row.output)
        kept: list[tuple[str, list[int], Changed]] = []
        for negative in contrast.negatives:
            ids = encode_target(tokenizer, negative.text)
            ids = ids if negative.ended else ids[:-1]
            if not ids or ids == positive or len(prompt) + len(ids) >= limit:
                skipped[negative.kind] += 1
                continue
            changed = _changed(tokenizer, positive, ids) if marked else ((), ())
            share = 1.0 - sum(map(len, changed)) / (len(positive) + len(ids))
            if share < min_kept:
                skipped[REWRITTEN] += 1
            else:
                kept.append((negative.kind, ids, changed))
        if kept and len(prompt) + len(positive) < limit:
            kinds, texts, changes = zip(*kept, strict=True)
            found.append(
                TokenContrast(
                    tuple(prompt),
                    tuple(positive),
                    tuple(map(tuple, texts)),
                    kinds,
                    changed=tuple(changes) if marked else (),
                    shown=contrast.row.input if marked else "",
                )
            )
        else:
            skipped[LEFT_OUT] += 1
    return found


def _changed(tokenizer: Any, better: Sequence[int], worse: Sequence[int]) -> Changed:
    marks = changed_tokens(pieces(tokenizer, worse), pieces(tokenizer, better))
    return tuple(np.flatnonzero(marks[1]).tolist()), tuple(np.flatnonzero(marks[0]).tolist())


def _prompt_ids(recipe: Recipe, row: Row, tokenizer: Any) -> list[int]:
    prompt = recipe.data.prompt
    return list(encode_prompt(tokenizer, row, system=prompt.system, template=prompt.template, chat=prompt.chat))
