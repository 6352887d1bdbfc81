"""Contrasts from rows: which kinds a row gets, and the promise that a negative differs from its positive.

A row's negatives depend on the seed, its id, the kinds and the corpus, and on nothing else: not on the other rows, their
number or their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rlft_core.config.negatives import NegativeConfig
from rlft_core.negatives.corpus import Corpus
from rlft_core.negatives.draw import stream, weighted_order
from rlft_core.negatives.kinds import generate
from rlft_core.negatives.types import NO_NEGATIVES, Contrast, Made, Negative
from rlft_core.negatives.units import plain
from rlft_core.types import Row

_ATTEMPTS = 4


def make_negatives(
    rows: Sequence[Row], corpus: Corpus, kinds: Sequence[NegativeConfig], *, per_row: int, seed: int
) -> Made:
    """`per_row` negatives for each row, their kinds drawn by share.

    A row gets no kind a second time while it has not had all of them, so shares decide which kinds it lacks. A kind that
    cannot give a negative is counted as skipped, is not asked again for this row, and another one takes its place. A kind
    whose share is 0 is never drawn.
    """
    counts, skipped = _zeros(kinds), Counter[str]()
    contrasts = []
    for row in rows:
        found = _drawn(row, corpus, kinds, per_row=per_row, seed=seed, skipped=skipped)
        contrasts.append(Contrast(row, tuple(found)))
        counts.update(negative.kind for negative in found)
    return _made(contrasts, counts, skipped)


def one_of_each(rows: Sequence[Row], corpus: Corpus, kinds: Sequence[NegativeConfig], *, seed: int) -> Made:
    """One negative of every kind for each row, where the row allows it, in the order of the kinds."""
    counts, skipped = _zeros(kinds), Counter[str]()
    contrasts = []
    for row in rows:
        found: list[Negative] = []
        for kind in kinds if row.output.strip() else ():
            negative = _attempted(row, kind, corpus, found, turn=0, seed=seed)
            if negative is None:
                skipped[kind.label] += 1
            else:
                found.append(negative)
        contrasts.append(Contrast(row, tuple(found)))
        counts.update(negative.kind for negative in found)
    return _made(contrasts, counts, skipped)


def _drawn(
    row: Row, corpus: Corpus, kinds: Sequence[NegativeConfig], *, per_row: int, seed: int, skipped: Counter[str]
) -> list[Negative]:
    """The negatives of one row; fewer than `per_row` when the kinds that work for it run out of new ones."""
    found: list[Negative] = []
    able = [kind for kind in kinds if kind.share] if row.output.strip() else []
    turn = 0
    while able and len(found) < per_row:
        order = weighted_order(stream(seed, row.id, turn), [kind.share for kind in able])
        for kind in [able[index] for index in order]:
            if len(found) == per_row:
                break
            negative = _attempted(row, kind, corpus, found, turn=turn, seed=seed)
            if negative is not None:
                found.append(negative)
            else:
                skipped[kind.label] += 1
                able.remove(kind)
        turn += 1
    return found


def _attempted(
    row: Row, kind: NegativeConfig, corpus: Corpus, found: Sequence[Negative], *, turn: int, seed: int
) -> Negative | None:
    """A negative that is not blank and differs from the row's output and its other negatives."""
    taken = {plain(row.output), "", *(plain(negative.text) for negative in found)}
    for attempt in range(_ATTEMPTS):
        negative = generate(row, kind, corpus, stream(seed, row.id, kind.label, turn, attempt))
        if negative is None:
            return None
        if plain(negative.text) not in taken:
            return negative
    return None


def _zeros(kinds: Sequence[NegativeConfig]) -> Counter[str]:
    return Counter({kind.label: 0 for kind in kinds})


def _made(contrasts: Sequence[Contrast], counts: Counter[str], skipped: Counter[str]) -> Made:
    kept = tuple(contrast for contrast in contrasts if contrast.negatives)
    if len(kept) < len(contrasts):
        skipped[NO_NEGATIVES] = len(contrasts) - len(kept)
    return Made(kept, dict(counts), dict(skipped))
