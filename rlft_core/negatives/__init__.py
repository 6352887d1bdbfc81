"""Bad outputs beside good ones, for training a reward model without anyone's preferences.

    make_corpus(rows, kinds) ──▶ Corpus ──make_negatives / one_of_each──▶ Made: contrasts and counts

The kinds are configured in `rlft_core.config.negatives`. Pure and seeded; samples of the model are given, not made here.
Which texts become the same token ids is not looked at: that is for whoever encodes them.
"""

from rlft_core.negatives.corpus import Corpus, make_corpus
from rlft_core.negatives.make import make_negatives, one_of_each
from rlft_core.negatives.samples import read_samples, write_samples
from rlft_core.negatives.types import NO_NEGATIVES, Contrast, Made, Negative

__all__ = [
    "NO_NEGATIVES",
    "Contrast",
    "Corpus",
    "Made",
    "Negative",
    "make_corpus",
    "make_negatives",
    "one_of_each",
    "read_samples",
    "write_samples",
]
