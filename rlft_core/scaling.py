"""How many engines a run should have, from what its last steps waited for. Pure; who carries it out is elsewhere.

In a step the learner waits for samples (`generate`), and engines wait for the learner (they are not `busy`). Another engine
helps only against the first, and costs most where the second is large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

STEPS = 4
"""Steps that are looked at; after a change, so many are waited for."""
_LEARNER_WAITS, _LEARNER_HARDLY_WAITS, _ENGINES_IDLE = 0.3, 0.1, 0.5


@dataclass(frozen=True, slots=True)
class Waits:
    """One step, in seconds: all of it, the learner waiting for samples, engines at work."""

    step_s: float
    generate_s: float
    busy_s: float


def wanted_engines(size: int, steps: Sequence[Waits], *, least: int, most: int) -> int:
    """Engines wanted after these steps, all of them made with `size` engines; `size` when there is no reason to change.

    More, by half and at least one, when the learner waited for more than 30 % of the time; one less when it would still wait
    for less than 10 % and engines were idle for more than half of it.
    """
    bounded = min(max(size, least), most)
    if bounded != size or len(steps) < STEPS:
        return bounded
    recent = steps[-STEPS:]
    whole = sum(step.step_s for step in recent)
    if whole <= 0.0:
        return size
    waited = sum(step.generate_s for step in recent) / whole
    idle = 1.0 - sum(step.busy_s for step in recent) / whole
    if waited > _LEARNER_WAITS:
        return min(size + max(1, size // 2), most)
    if size > 1 and waited * size / (size - 1) < _LEARNER_HARDLY_WAITS and idle > _ENGINES_IDLE:
        return max(size - 1, least)
    return size
