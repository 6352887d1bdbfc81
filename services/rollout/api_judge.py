"""A judge behind an OpenAI-compatible endpoint, as a reward that the scorers know.

    group ref ─▶ actor: [comparisons or grades of a round ─▶ messages ─▶ cache, or the service ─▶ p of the labels] ─▶ GivenScores

A service that is busy or down is asked again with growing pauses; one that refuses, or does not come back, fails the run.
Replies are kept in SQLite as they come, so that an actor or a run that is started again buys nothing twice; what is asked
several times at once is bought by the first, and the others wait for its reply.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import sqlite3
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
import ray
from openai.types.chat import ChatCompletion

from rlft_core.config.judge import ApiJudgeConfig
from rlft_core.errors import JudgeError
from rlft_core.judging.chat import Message, Messages, label_probabilities
from rlft_core.rewards.given import GivenScores
from rlft_core.types import RolloutGroup
from services.cluster.waiting import answer
from services.rollout.judging import Judging, judged

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_ALTERNATIVES = 20
_REPLY_TOKENS = 8
_NO_SERVICE = "url is to be that of a service's version, such as http://judge.example:8000/v1"


@dataclass(slots=True)
class Bill:
    """What one group took: requests, prompts answered from the cache or by somebody's request under way, tokens."""

    asked: int = 0
    cached: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def statistics(self, config: ApiJudgeConfig, num_samples: int) -> dict[str, float]:
        """For metrics, a sample: prompts sent, prompts answered from the cache, and the price of the sent ones."""
        cost = (self.tokens_in * config.price_in + self.tokens_out * config.price_out) / 1e6
        parts = {"asked": float(self.asked), "cached": float(self.cached), "cost": cost}
        return {name: value / num_samples for name, value in parts.items()}

    def add(self, reply: ChatCompletion) -> None:
        """A request that was answered."""
        self.asked += 1
        if reply.usage is not None:
            self.tokens_in += reply.usage.prompt_tokens
            self.tokens_out += reply.usage.completion_tokens


@dataclass(slots=True)
class _Call:
    """A prompt at the service, for everyone who asks the same meanwhile."""

    task: asyncio.Task[list[float]]
    num_waiting: int = 0


class ReplyCache:
    """Probabilities by what was asked, in an SQLite file that several runs may share."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._base = sqlite3.connect(path, timeout=60.0, isolation_level=None)
        self._base.execute("CREATE TABLE IF NOT EXISTS replies (question TEXT PRIMARY KEY, chances TEXT NOT NULL)")

    def get(self, key: str) -> list[float] | None:
        """What was answered before."""
        row = self._base.execute("SELECT chances FROM replies WHERE question = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, chances: Sequence[float]) -> None:
        """Keep an answer; it is on disk when this returns."""
        self._base.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, json.dumps(list(chances))))


class ApiJudge:
    """Asks the service. One for each process; many groups at once."""

    def __init__(self, config: ApiJudgeConfig, judging: Judging, *, key: str, cache: Path) -> None:
        self._config = config
        self._judging = judging
        self._asking = judging.asking(Messages())
        self._cache = ReplyCache(cache)
        self._calls: dict[str, _Call] = {}
        self._free = asyncio.Semaphore(config.max_concurrent)
        # The client's own two retries heed Retry-After; patience beyond them is ours.
        self._client = openai.AsyncOpenAI(
            base_url=config.url, api_key=key or "none", timeout=config.deadline_s, max_retries=2
        )

    async def ready(self) -> bool:
        """Answers when the service does. Raises JudgeError when it refuses, or does not come."""
        await self._request(({"role": "user", "content": "Reply with OK."},), Bill())
        return True

    async def score(self, group: RolloutGroup) -> GivenScores:
        """What the judge makes of each sample. Raises JudgeError."""
        bill = Bill()

        async def ask(prompts: Sequence[tuple[Message, ...]], labels: tuple[str, ...]) -> np.ndarray:
            found = await _all([self._chances(prompt, labels, bill) for prompt in prompts])
            with np.errstate(divide="ignore"):
                logprobs: np.ndarray = np.log(np.array(found))
            return logprobs

        scores = await judged(group, self._judging, self._asking, ask)
        paid = bill.statistics(self._config, len(group.completions))
        values = tuple((value[0], {**value[1], **paid}) for value in scores.values)  # type: ignore[index]
        return replace(scores, values=values)

    async def _chances(self, prompt: tuple[Message, ...], labels: tuple[str, ...], bill: Bill) -> list[float]:
        config = self._config
        asked = json.dumps([config.url, config.model, config.logprobs, prompt, labels], ensure_ascii=False)
        key = hashlib.sha256(asked.encode()).hexdigest()
        known = self._cache.get(key)
        if known is not None:
            bill.cached += 1
            return known
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = _Call(asyncio.ensure_future(self._bought(key, prompt, labels, bill)))
            call.task.add_done_callback(lambda task: self._forget(key, task))
        else:
            bill.cached += 1
        return await self._shared(key, call)

    async def _shared(self, key: str, call: _Call) -> list[float]:
        """Its result. Who is cancelled takes it from nobody; when nobody waits any more, it is not bought."""
        call.num_waiting += 1
        try:
            return await asyncio.shield(call.task)
        finally:
            call.num_waiting -= 1
            if not call.num_waiting:
                self._forget(key, call.task)  # before it has ended: nobody may join what is being cancelled
                call.task.cancel()

    def _forget(self, key: str, task: asyncio.Task[list[float]]) -> None:
        if key in self._calls and self._calls[key].task is task:
            del self._calls[key]

    async def _bought(self, key: str, prompt: tuple[Message, ...], labels: tuple[str, ...], bill: Bill) -> list[float]:
        reply = await self._request(prompt, bill)
        choice = reply.choices[0]
        first = choice.logprobs.content[0] if choice.logprobs and choice.logprobs.content else None
        alternatives = [(entry.token, entry.logprob) for entry in first.top_logprobs] if first else None
        try:
            found = label_probabilities(choice.message.content or "", alternatives, labels)
        except JudgeError as error:
            raise JudgeError(f"{self._who}: {error}") from None
        self._cache.put(key, found)
        return found

    async def _request(self, prompt: tuple[Message, ...], bill: Bill) -> ChatCompletion:
        """A reply with something in it. What may pass is waited for, at most `patience_s` from the first failure on."""
        config, pause, until = self._config, _FIRST_PAUSE_S, math.inf
        while True:
            queued = time.monotonic()
            try:
                async with self._free:
                    until += time.monotonic() - queued  # that others keep it busy says nothing against the service
                    reply = await self._asked(prompt)
            except ValueError as error:
                raise JudgeError(f"{self._who} answered with no JSON: {error}; {_NO_SERVICE}") from error
            except openai.APIError as error:
                if not _may_pass(error):
                    raise JudgeError(f"{self._who} refused: {error}; {_way_out(error)}") from error
                failure = str(error)
            else:
                if not isinstance(reply, ChatCompletion):
                    raise JudgeError(f"{self._who} answered with no chat completion: {reply!r:.200}; {_NO_SERVICE}")
                if reply.choices:
                    bill.add(reply)
                    return reply
                failure = f"it replied {reply.model_dump(exclude_none=True)!r:.200}"
            until = min(until, time.monotonic() + config.patience_s)
            if time.monotonic() + pause > until:
                told = f"did not answer for {config.patience_s:g} s (patience_s), the last time: {failure}"
                raise JudgeError(f"{self._who} {told}")
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2.0 * pause, _LONGEST_PAUSE_S)

    async def _asked(self, prompt: tuple[Message, ...]) -> ChatCompletion:
        keys: dict[str, Any] = {"logprobs": True, "top_logprobs": _ALTERNATIVES} if self._config.logprobs else {}
        found: ChatCompletion = await self._client.chat.completions.create(
            model=self._config.model,
            messages=list(prompt),  # type: ignore[arg-type]
            max_tokens=_REPLY_TOKENS,
            temperature=0.0,
            **keys,
        )
        return found

    @property
    def _who(self) -> str:
        return f"judge '{self._config.label}' ({self._config.model} at {self._config.url})"


async def _all(asked: Sequence[Coroutine[Any, Any, list[float]]]) -> list[list[float]]:
    """The results of all. When one fails the others are not bought any more."""
    tasks = [asyncio.ensure_future(one) for one in asked]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _may_pass(error: openai.APIError) -> bool:
    """Whether asking again may help: it is not there, too busy, at fault itself, or late."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError)


def _way_out(error: openai.APIError) -> str:
    if getattr(error, "status_code", None) in (400, 422):
        return "if it gives no log-probs set logprobs: false, if texts are too long for it lower max_chars"
    return "mend url, model or key_env"


class ApiJudgePool:
    """The judge's actor, as the scorers know it. There is one, which shares out the work."""

    role = "judge"
    crew = None

    def __init__(self, label: str, actor: ray.actor.ActorHandle, patience_s: float) -> None:
        self.label = label
        self._actor = actor
        self._patience_s = patience_s

    async def start(self, seconds: float) -> None:
        """Wait until the service answers. Raises JudgeError or DeadlineError."""
        await answer(self._actor.ready.remote(), f"judge '{self.label}'", "start", seconds + self._patience_s)

    async def score(self, group: ray.ObjectRef) -> tuple[ray.ObjectRef, Callable[[], None]]:
        """The ref of a group's GivenScores."""
        return self._actor.score.remote(group), _nothing

    def actors(self) -> list[dict[str, Any]]:
        """As `rlft status` shows it."""
        return [{"name": self.label, "kind": self.role, "state": "healthy", "node": "", "pid": 0}]

    async def stop(self) -> None:
        """End the actor."""
        ray.kill(self._actor, no_restart=True)


def _nothing() -> None:
    """There is one actor, and the service shares out the work."""
