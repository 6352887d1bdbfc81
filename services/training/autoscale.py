"""Engines that come and go by themselves, as `rollout.autoscale` allows: looks at each step, asks `rlft_core.scaling`.

Newcomers that find no room on the cluster wait there, which is what tells Ray's autoscaler to start nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rlft_core.config.rollout import AutoscaleConfig
from rlft_core.scaling import Waits, wanted_engines
from services.observe.observer import Progress
from services.rollout.fleet import Fleet


@dataclass(slots=True)
class Autoscale:
    """`config` None: the number of engines is left alone."""

    config: AutoscaleConfig | None
    rollouts: Fleet
    notice: Callable[[str], None]
    _seen: list[Waits] = field(default_factory=list)
    _last: int = 0
    _size: int = 0

    def look(self, progress: Progress) -> None:
        """Take the newest step into account, once, and change the number of engines if there is a reason."""
        if self.config is None:
            return
        size, states = self.rollouts.size, set(self.rollouts.states().values())
        if size != self._size or states != {"healthy"}:  # steps with other engines say nothing of these
            self._seen.clear()
        elif progress.step != self._last and "time/generate_s" in progress.metrics:
            numbers = progress.metrics
            self._seen.append(
                Waits(numbers["time/step_s"], numbers["time/generate_s"], numbers.get("time/sampling_busy_s", 0.0))
            )
        self._last, self._size = progress.step, size
        wanted = wanted_engines(size, self._seen, least=self.config.min, most=self.config.max)
        if wanted != size:
            self.notice(f"rollout.autoscale: {size} to {wanted} engines")
            self.rollouts.resize(wanted)
