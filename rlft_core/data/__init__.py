"""From a user's file to token ids: read rows, split them by family, fill prompt templates, check lengths.

Plain functions on plain arguments. Only `prepare` knows of recipes, processes or devices.
"""

from rlft_core.data.encode import Fitting, check_lengths, encode_prompt, encode_target, plain_ids
from rlft_core.data.load import load_rows
from rlft_core.data.split import Splits, check_disjoint, split_rows
from rlft_core.data.template import placeholders, render

__all__ = [
    "Fitting",
    "Splits",
    "check_disjoint",
    "check_lengths",
    "encode_prompt",
    "encode_target",
    "load_rows",
    "placeholders",
    "plain_ids",
    "render",
    "split_rows",
]
