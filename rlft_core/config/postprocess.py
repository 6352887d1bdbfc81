"""What is cut off a finished output: the cheap remedy that reinforcement learning is compared with. Imports no torch."""

from __future__ import annotations

from pydantic import PositiveInt, model_validator

from rlft_core.config.base import Strict
from rlft_core.config.checks import Words

POST = "+post"
"""What is added to a system's label where its outputs are post-processed."""


class PostprocessConfig(Strict):
    """Steps in the order of these keys; what is not switched on does nothing."""

    strip_prefixes: Words | None = None
    """Beginnings to remove (any case), such as `Summary:`; white space after them goes too."""
    first_line: bool = False
    """Keep the first line that is not blank."""
    first_sentence: bool = False
    """Keep the first sentence."""
    cut_repetition: PositiveInt | None = None
    """Cut before the first run of so many words that stood in the text before."""
    max_words: PositiveInt | None = None
    """Keep at most so many words."""
    max_chars: PositiveInt | None = None
    """Keep at most so many characters, whole words only."""
    strip_final: str = ""
    """Characters to remove from the end, such as `.,;`."""

    @model_validator(mode="after")
    def _does_something(self) -> PostprocessConfig:
        if self == PostprocessConfig.model_construct():
            raise ValueError("postprocess does nothing: switch on at least one step, for instance first_line: true")
        return self
