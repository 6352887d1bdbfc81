"""One object that a loop reports to: `with observe.step(step) as clock`. Passes rows on; decides nothing.

    with observer.stage("ppo", num_steps=200) as observe:
        with observe.step(step) as clock:
            with clock("generate"): ...
            clock.record(metrics)

A step that raises or is left before `record` leaves no trace. A step that is not the one after the last recorded step
(a resumed stage, a restarted learner) first drops what was written for it and for later ones.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

from services.observe.clock import StepClock
from services.observe.samples import SampleLog, SampleRecord
from services.observe.sinks import JsonlSink, RunInfo, Sink, SinkError
from services.observe.terminal import Terminal

_NOTICES_KEPT = 8
_RECENT_STEPS = 20  # the time left is told from the mean of so many: early steps are slower than the rest


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the stage under way stands. `step`: steps done; `recent`: seconds of the last ones."""

    stage: str = ""
    num_steps: int | None = None
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    recent: tuple[float, ...] = ()

    def after(self, step: int, metrics: Mapping[str, float]) -> Progress:
        """With step `step` (from 0) done."""
        recent = (*self.recent, metrics.get("time/step_s", 0.0))[-_RECENT_STEPS:]
        return replace(self, step=step + 1, metrics=dict(metrics), recent=recent)

    @property
    def eta_s(self) -> float | None:
        """Seconds until the stage's last step, as the last steps went."""
        if not self.num_steps or not self.recent:
            return None
        return max(self.num_steps - self.step, 0) * sum(self.recent) / len(self.recent)


class Observer:
    """All that watches one run: metrics.jsonl, samples.jsonl, the terminal and the trackers that the recipe names."""

    def __init__(
        self,
        run: RunInfo,
        *,
        trackers: Sequence[Sink] = (),
        terminal: Terminal | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.run = run
        self.terminal = terminal or Terminal()
        self.log = JsonlSink()
        self.now = now
        self.notices: deque[str] = deque(maxlen=_NOTICES_KEPT)
        self.progress = Progress()
        self._trackers = list(trackers)
        self._warned: set[str] = set()

    @contextmanager
    def started(self) -> Iterator[Observer]:
        """Start every sink and close those that did, whatever happens. Raises UserError when one cannot start."""
        with ExitStack() as opened:
            for sink in (self.log, *self._trackers):
                sink.start(self.run)
                opened.callback(sink.close)
            yield self

    @contextmanager
    def stage(self, name: str, *, num_steps: int | None = None, sample_every: int = 0) -> Iterator[StageObserver]:
        """Announce a stage and take its steps; samples of every `sample_every`-th are wanted, of none with 0.

        The time it took is told when it ends well.
        """
        self.terminal.stage(name, num_steps)
        self.progress = Progress(name, num_steps)
        start = self.now()
        try:
            yield StageObserver(self, name, SampleLog(self.run.folder, every=sample_every))
        except BaseException:
            self.terminal.end_stage()
            raise
        self.terminal.end_stage(self.now() - start)

    def write(self, stage: str, step: int, metrics: dict[str, float]) -> None:
        """One row to every sink and to the terminal. A tracker that fails is reported once and given up."""
        for sink in (self.log, *self._trackers):
            try:
                sink.log(step, metrics, stage)
            except SinkError as error:
                self.warn_once(sink, error)
                self._trackers = [tracker for tracker in self._trackers if tracker is not sink]
        self.terminal.step(step, metrics)
        self.progress = self.progress.after(step, metrics)

    def notice(self, text: str) -> None:
        """Tell the person watching, and whoever asks for the run's status."""
        self.notices.append(text)
        self.terminal.warn(text)

    def warn_once(self, source: Sink | SampleLog, error: SinkError) -> None:
        """Tell of the first failure of a kind of sink."""
        name = type(source).__name__
        if name not in self._warned:
            self._warned.add(name)
            self.notice(f"{error}. The run goes on.")


class StageObserver:
    """What the loop of one stage holds."""

    def __init__(self, observer: Observer, stage: str, sample_log: SampleLog) -> None:
        self._observer = observer
        self._stage = stage
        self._sample_log = sample_log
        self._next_step = -1

    @contextmanager
    def step(self, step: int) -> Iterator[StepClock]:
        """Time one step and, if it was recorded, write its row."""
        if step != self._next_step:
            self._observer.log.rewind(self._stage, step)
            self._sample_log.rewind(self._stage, step)
        self._next_step = -1  # a step that leaves no trace is followed by a rewind, for it may have written samples
        clock = StepClock(now=self._observer.now)
        yield clock
        if clock.recorded is not None:
            self._observer.write(self._stage, step, clock.metrics())
            self._next_step = step + 1

    @property
    def progress(self) -> Progress:
        """Where the stage stands."""
        return self._observer.progress

    def wants_samples(self, step: int) -> bool:
        """Whether samples of this step should be fetched."""
        return self._sample_log.due(step)

    def samples(self, step: int, records: Iterable[SampleRecord]) -> None:
        """Write samples of a due step."""
        try:
            self._sample_log.write(self._stage, step, records)
        except SinkError as error:
            self._observer.warn_once(self._sample_log, error)
