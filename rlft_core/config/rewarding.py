"""What every reward's configuration has."""

from __future__ import annotations

from pydantic import Field, FiniteFloat

from rlft_core.config.base import Strict


class Rewarding(Strict):
    """What every reward has. The sample's reward is the sum of weight * value over all rewards."""

    type: str
    """Which reward this is."""
    name: str | None = Field(default=None, min_length=1, pattern=r"^[^/]+$")
    """Name in breakdowns and metrics. Default: the type."""
    weight: FiniteFloat = 1.0
    """Factor of this reward in the sum. 0 only observes it."""

    @property
    def label(self) -> str:
        """The reward's name in breakdowns and metrics."""
        return self.name or self.type

    @property
    def fields_needed(self) -> frozenset[str]:
        """Columns of a row that the reward reads, beside input and output."""
        return frozenset()

    @property
    def needs_reference(self) -> bool:
        """Whether the row's output is read."""
        return False
