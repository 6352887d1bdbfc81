"""Where the seconds of one step went. Measures the coordinator's own waits; knows nothing of what is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

#: Phases in which an engine, a scorer or the learner computes. Everything else is coordination.
COMPUTE_PHASES = frozenset({"watch", "generate", "score", "update"})


class StepClock:
    """Seconds by phase of one step: `with clock("generate"): ...`.

    A phase entered again adds up. A phase inside another stops the outer one while it lasts, so the phases never sum
    to more than the step. One clock belongs to one coroutine: it follows a single line of work.
    """

    def __init__(self, *, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._start = self._mark = now()
        self._open: list[str] = []
        self._recorded: dict[str, float] | None = None
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self._charge()
        self._open.append(phase)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        """Give the time since the last mark to the innermost open phase; outside all phases it goes to nobody."""
        now = self._now()
        if self._open:
            phase = self._open[-1]
            self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._mark
        self._mark = now

    def record(self, metrics: Mapping[str, float]) -> None:
        """Say that the step counts, and what it measured. Called again, it adds to what was said before."""
        self._recorded = (self._recorded or {}) | dict(metrics)

    @property
    def recorded(self) -> dict[str, float] | None:
        """What `record` was given; None when the step was given up before."""
        return self._recorded

    @property
    def total(self) -> float:
        """Seconds since the step began."""
        return self._now() - self._start

    def metrics(self) -> dict[str, float]:
        """The recorded metrics and the step's times.

        time/step_s              the whole step; a supervised learner, which times itself, may have recorded it
        time/<phase>_s           each phase
        time/other_s             step - sum of phases
        time/coordination_share  1 - (compute phases) / step. A compute phase counts for its whole length, so idle
                                 moments inside one are not seen here.
        tokens/per_second        tokens/generated / step, when that was recorded
        """
        row = dict(self._recorded or {})
        total = row.get("time/step_s", self.total)
        row |= {f"time/{phase}_s": seconds for phase, seconds in self.seconds.items()}
        row["time/step_s"] = total
        row["time/other_s"] = max(0.0, total - sum(self.seconds.values()))
        if total > 0:
            computing = sum(seconds for phase, seconds in self.seconds.items() if phase in COMPUTE_PHASES)
            if computing > 0:
                row["time/coordination_share"] = max(0.0, 1.0 - computing / total)
            if "tokens/generated" in row:
                row["tokens/per_second"] = row["tokens/generated"] / total
        return row


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds in which at least one of some (start, end) spans runs: the measure of their union."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
