"""The reward-hacking watch beside the PPO loop: validation rows, answered greedily by the weights that the engines hold.

Every look is a line of `watch.jsonl`, and what the model answered stands in `watch-outputs.jsonl`: the same rows again and
again, so that one can read how answers change. With `keep_best` or `early_stop` the learner writes the best model so far to
`best-<step>/`, which becomes the stage's model in the end. A look that was made before (a resumed run, a restarted
learner) is made again, and what came after it is forgotten, as the steps themselves are.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ray

from rlft_core.config.watch import WatchConfig
from rlft_core.errors import SamplesLost
from rlft_core.evaluation.watch import Look, alarms, best_of, watched
from rlft_core.types import Prompt
from services.learner.learner import Learner
from services.observe import jsonl
from services.rollout.engine import Sampling
from services.rollout.fleet import Fleet
from services.scoring.scorers import ScorerPool

LOG, OUTPUTS = "watch.jsonl", "watch-outputs.jsonl"
_KEPT_FOLDERS = 2
"""The newest of the best models: the one before is needed when the run goes on from an earlier checkpoint."""


@dataclass(slots=True)
class Watch:
    """`config` None: nothing is watched. `relative`: the reward only compares samples of one prompt. `stopped` says that the run
    should end, because of an alarm."""

    config: WatchConfig | None
    prompts: Sequence[Prompt]
    max_tokens: int
    num_steps: int
    folder: Path
    rollouts: Fleet
    scorer: ScorerPool
    learner: Learner
    notice: Callable[[str], None]
    relative: bool = False
    stopped: bool = False
    _looks: list[Look] = field(default_factory=list)

    async def look(self, step: int) -> None:
        """Look at the model of `step` updates, if a look is due. The engines must hold its weights."""
        if self.config is None or (step % self.config.every and step != self.num_steps):
            return
        self._looks = [look for look in self._looks or self._read() if look.step < step]
        self._forget(folder for folder in self._kept() if folder.name > _name(step))
        now, answers = await self._measured(step, self.config)
        first = self._looks[0] if self._looks else now
        found = alarms(first, now, self.config, relative=self.relative)
        self._looks.append(now)
        best = best_of(self._looks, self.config.best_by).step == step
        for alarm in found:
            self.notice(f"step {step}: {alarm}: look at the samples, the reward may be gamed")
        if best and step < self.num_steps and (self.config.keep_best or self.config.early_stop):
            await self.learner.keep(_name(step))
            self._forget(self._kept()[:-_KEPT_FOLDERS])
        self._write(now, found, best=best)
        jsonl.rewind(self.folder / OUTPUTS, stage=self.folder.name, step=step)
        jsonl.append_rows(self.folder / OUTPUTS, answers)
        if found and self.config.early_stop:
            self.stopped = True
            self.notice(f"step {step}: stopped early; the model of step {self.best_step} is kept")

    @property
    def best_step(self) -> int | None:
        """Number of updates of the best model; None before the first look."""
        return best_of(self._looks, self.config.best_by).step if self.config and self._looks else None

    def best_model(self) -> Path | None:
        """The folder that should become the stage's model instead of the last step's, if any."""
        if self.config is None or self.best_step in (None, self.num_steps):
            return None
        assert self.best_step is not None
        folder = self.folder / _name(self.best_step)
        if not (self.stopped or self.config.keep_best):
            return None
        if not folder.is_dir():  # an interrupted run that did not come out the same the second time
            self.notice(f"the best model, of step {self.best_step}, is no longer there; the last one is kept")
            return None
        return folder

    def tidy(self) -> None:
        """Remove the models that were kept: the one that counts has become the stage's."""
        self._forget(self._kept())

    async def _measured(self, step: int, config: WatchConfig) -> tuple[Look, list[dict[str, object]]]:
        """A look; made again when its answers are lost with a node."""
        while True:
            try:
                return await self._measure(step, config)
            except SamplesLost as lost:
                self.notice(f"the look at step {step} is made again: {lost}")

    async def _measure(self, step: int, config: WatchConfig) -> tuple[Look, list[dict[str, object]]]:
        async def scored_group(group: asyncio.Future[ray.ObjectRef]) -> ray.ObjectRef:
            return await self.scorer.score(await group)

        groups = self.rollouts.generate(self.prompts, Sampling(0.0, self.max_tokens))
        scored = await asyncio.gather(*(scored_group(group) for group in groups))
        rewards, metrics = await self.scorer.measure(scored)
        answers = [
            {
                "stage": self.folder.name,
                "step": step,
                "id": record.id,
                "prompt": record.prompt,
                "reference": record.reference,
                "output": record.output,
                "ended": record.finish_reason == "stop",
                "reward": record.reward,
            }
            for record in await self.scorer.records(scored)
        ]
        return Look(step, tuple(rewards), {name: tuple(metrics[name]) for name in watched(config)}), answers

    def _read(self) -> list[Look]:
        path = self.folder / LOG
        if not path.is_file():
            return []
        return [Look.from_dict(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]

    def _write(self, now: Look, found: Sequence[str], *, best: bool) -> None:
        """Replace the log by the looks that still count and this one."""
        path = self.folder / LOG
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        kept = [line for line in lines if json.loads(line)["step"] < now.step]
        aside = path.with_name(f".{LOG}")
        aside.write_text("\n".join([*kept, json.dumps(now.as_dict(found, best=best))]) + "\n", encoding="utf-8")
        aside.replace(path)

    def _kept(self) -> list[Path]:
        return sorted(self.folder.glob("best-*"))

    def _forget(self, folders: Iterable[Path]) -> None:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def _name(step: int) -> str:
    return f"best-{step:06d}"
