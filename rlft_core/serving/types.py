"""What is served, as a value. Imports no torch: the gateway holds these and nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["policy", "reward"]


@dataclass(frozen=True, slots=True)
class Spec:
    """What a person names: a run, and perhaps one of its stages, and perhaps a step of it."""

    run: str
    stage: str | None = None
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder that can be served. `label` is RUN:STAGE or RUN:STAGE@STEP; `max_length` in tokens; `system` and
    `template` are how it was asked in training. With a `base`, a model folder or hub id, the folder is an adapter of that
    `rank` for it."""

    label: str
    folder: str
    kind: Kind
    max_length: int
    dtype: str
    trust_remote_code: bool = False
    system: str | None = None
    template: str = "{input}"
    base: str = ""
    rank: int = 0

    @staticmethod
    def parse(content: Mapping[str, Any]) -> Checkpoint:
        """From what a state file holds."""
        return Checkpoint(**content)
