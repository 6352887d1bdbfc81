"""One published version of the weights: what the learner announces and the fleet hands to its engines."""

from __future__ import annotations

from dataclasses import dataclass

import ray

from services.weights.bundle import Manifest, Probe


@dataclass(frozen=True, slots=True)
class Publication:
    """`chunks` are object refs owned by the learner; they live until it publishes the next version but one."""

    manifest: Manifest
    chunks: tuple[ray.ObjectRef, ...]
    probe: Probe | None

    @property
    def version(self) -> int:
        return self.manifest.version
