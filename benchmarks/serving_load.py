"""What clients notice of a promote and of a replica's death: a bounded load on a service of this machine.

    python -m benchmarks.serving_load runs/last-mile-0 --to last-mile-0@40 [--clients 4] [--out FILE]

Half of the clients stream. Each asks for the next answer when it has one, without retries of its own. An answer counts for
the phase in which it was asked. `to_first` is the time to a stream's first text. Promotes go back and forth; the death is
SIGKILL to a replica and to the engine's process below it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import psutil

from benchmarks.machine import hardware, versions
from rlft_core.config.recipe import ClusterConfig
from services.serving.app import ServiceConfig
from services.serving.run import served_models, service
from services.serving.settings import EngineOptions, Scaling

_DEADLINE_S = 300.0
_TEXT = (
    "A library of small functions that read, check and write configuration files in several formats, keep comments where "
    "they are, and tell people in which line a mistake stands."
)


@dataclass
class Phase:
    """What was asked while something went on."""

    seconds: list[float] = field(default_factory=list)
    to_first: list[float] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    checkpoints: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Counts, and seconds."""
        found: dict[str, Any] = {
            "answers": len(self.seconds),
            "failures": len(self.failures),
            "retried": sum(count > 1 for count in self.attempts),
            "checkpoints": sorted(self.checkpoints),
        }
        for name, values in (("seconds", self.seconds), ("to_first", self.to_first)):
            if values:
                p50, p95 = np.quantile(values, [0.5, 0.95])
                found |= {f"{name}_p50": float(p50), f"{name}_p95": float(p95), f"{name}_max": max(values)}
        return found


class Clients:
    """Ask without a pause."""

    def __init__(self, url: str, *, max_tokens: int) -> None:
        self._client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=_DEADLINE_S)
        self._max_tokens = max_tokens
        self._stopped = False
        self.phase = Phase()

    @asynccontextmanager
    async def asking(self, count: int) -> AsyncIterator[None]:
        """`count` clients for the length of the block."""
        tasks = [asyncio.ensure_future(self._ask(stream=number % 2 == 1)) for number in range(count)]
        try:
            yield
        finally:
            self._stopped = True
            await asyncio.gather(*tasks)
            await self._client.close()

    async def _ask(self, *, stream: bool) -> None:
        while not self._stopped:
            await ask(self._client, "m", _TEXT, self.phase, max_tokens=self._max_tokens, stream=stream)


async def ask(
    client: openai.AsyncOpenAI, model: str, text: str, phase: Phase, *, max_tokens: int, stream: bool
) -> None:
    """One answer, counted in `phase`."""
    started = time.monotonic()
    try:
        raw = await client.chat.completions.with_raw_response.create(
            model=model,
            messages=[{"role": "user", "content": text}],
            max_tokens=max_tokens,
            extra_body={"ignore_eos": True},
            stream=stream,
        )
        if stream:
            first = True
            async for event in raw.parse():
                if first and event.choices and event.choices[0].delta.content:
                    phase.to_first.append(time.monotonic() - started)
                    first = False
        phase.seconds.append(time.monotonic() - started)
        phase.attempts.append(int(raw.headers["x-rlft-attempts"]))
        phase.checkpoints.add(raw.headers["x-rlft-checkpoint"])
    except openai.OpenAIError as error:
        phase.failures.append(repr(error))
        await asyncio.sleep(0.1)


async def measured(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """All phases, one after the other."""
    clients = Clients(url, max_tokens=options.max_tokens)
    phases: dict[str, Phase] = {}
    facts: dict[str, Any] = {"promote_s": []}

    def begin(name: str) -> None:
        clients.phase = phases[name] = Phase()

    async with clients.asking(options.clients), httpx.AsyncClient(base_url=url, timeout=_DEADLINE_S) as admin:
        begin("warm-up")
        await asyncio.sleep(15.0)
        begin("quiet")
        await asyncio.sleep(options.seconds)
        begin("promotes")
        for number in range(options.promotes):
            run = options.to if number % 2 == 0 else options.run.name
            started = time.monotonic()
            answer = await admin.post("/admin/models/m/promote", json={"run": run})
            answer.raise_for_status()
            facts["promote_s"].append(time.monotonic() - started)
            await asyncio.sleep(5.0)
        begin("death")
        await asyncio.sleep(5.0)  # so that what is in work when it happens was asked in this phase
        facts["recovered_s"] = await killed(admin)
        await asyncio.sleep(5.0)
        begin("after")
        await asyncio.sleep(options.seconds / 2)
    return {"phases": {name: phase.figures() for name, phase in phases.items()}, **facts} | {
        "errors": [failure for phase in phases.values() for failure in phase.failures]
    }


async def killed(admin: httpx.AsyncClient) -> float:
    """Kill one of the replicas; seconds until there are as many as before."""
    before = (await admin.get("/admin/models")).json()["models"][0]["replicas"]
    started = time.monotonic()
    victim = psutil.Process(before[0]["pid"])
    for process in (victim, *victim.children(recursive=True)):
        os.kill(process.pid, signal.SIGKILL)
    old = {replica["pid"] for replica in before}
    while time.monotonic() - started < _DEADLINE_S:
        there = {replica["pid"] for replica in (await admin.get("/admin/models")).json()["models"][0]["replicas"]}
        if there - old and len(there - {victim.pid}) >= len(old):
            return time.monotonic() - started
        await asyncio.sleep(0.25)
    raise TimeoutError(f"no replica came back within {_DEADLINE_S:g} s")


def main() -> None:
    """Print a table, and write all numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--to", required=True, help="RUN[:STAGE][@STEP] that is promoted")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--promotes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--max-tokens", type=int, default=24)
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs_dir, state = options.run.parent.absolute(), Path(folder, "state.json")
        models = served_models([options.run.name], ["m"], runs_dir, state, print)
        config = ServiceConfig(
            models,
            runs_dir,
            state,
            options=EngineOptions(kv_cache_mb=128),
            scaling=Scaling(options.replicas, options.replicas),
        )
        result: dict[str, Any] = {"hardware": hardware(), "versions": versions(), "clients": options.clients}
        started = time.monotonic()
        with service(config, ClusterConfig(object_store_mb=128), "127.0.0.1", options.port) as url:
            result["start_s"] = time.monotonic() - started
            result |= asyncio.run(measured(url, options))
    print(
        "| phase | answers | failed | retried | seconds p50 | p95 | longest | first token p50 | p95 |\n|" + "---|" * 9
    )
    for name, one in result["phases"].items():
        times = (f"{one.get(key, float('nan')):.2f}" for key in ("seconds_p50", "seconds_p95", "seconds_max"))
        firsts = (f"{one.get(key, float('nan')):.2f}" for key in ("to_first_p50", "to_first_p95"))
        print(f"| {name} | {one['answers']} | {one['failures']} | {one['retried']} | {' | '.join((*times, *firsts))} |")
    print(
        "started in",
        f"{result['start_s']:.0f} s; promotes took",
        ", ".join(f"{s:.1f} s" for s in result["promote_s"]),
        end="",
    )
    print(f"; the dead replica was replaced after {result['recovered_s']:.0f} s", *result["errors"][:5], sep="\n")
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
