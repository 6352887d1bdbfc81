"""Says so when a judge looks at the place where a text stands and not at the text: such a reward teaches nothing.

Every judge writes two metrics besides its scores: `agreement`, the share of comparisons in which both orders said the same
(.5 for one that throws a coin each time, 0 for one that always takes the first), and `first`, the share of the probability
that whatever stood first was given.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping

from services.observe.sinks import RunInfo

STEPS = 5
LEAST_AGREEMENT = 0.35


class JudgeAlarm:
    """A sink that warns once for each judge of a stage, from the mean over the last `STEPS` steps."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._seen: defaultdict[tuple[str, str], deque[tuple[float, float]]] = defaultdict(lambda: deque(maxlen=STEPS))
        self._told: set[tuple[str, str]] = set()

    def start(self, run: RunInfo) -> None:
        """Nothing to open."""

    def log(self, step: int, metrics: Mapping[str, float], stage: str) -> None:
        """Look at a step's metrics."""
        for name, agreement in metrics.items():
            judge = name.removesuffix("/agreement")
            if judge == name or f"{judge}/first" not in metrics:
                continue
            key = (stage, judge)
            self._seen[key].append((agreement, metrics[f"{judge}/first"]))
            if key not in self._told and len(self._seen[key]) == STEPS:
                self._look(key)

    def close(self) -> None:
        """Nothing to close."""

    def _look(self, key: tuple[str, str]) -> None:
        agreement, first = (sum(values) / STEPS for values in zip(*self._seen[key], strict=True))
        if agreement >= LEAST_AGREEMENT:
            return
        self._told.add(key)
        stage, judge = key
        place = "first" if first > 0.5 else "second"
        self._tell(
            f"{stage}: {judge.removeprefix('reward/')} judges by the place: over the last {STEPS} steps both orders said the "
            f"same in {agreement:.0%} of the comparisons (a coin: 50 %), and what stood {place} was given "
            f"{max(first, 1 - first):.0%} of the probability. Its scores say little of the texts: teach it to judge (`judge:` in "
            "an sft stage), or take another template or a larger model"
        )
