"""Several adapters behind one engine, against an engine of merged weights for each: memory, seconds, and what a promote costs.

    python -m benchmarks.serving_adapters runs/A runs/B --to A@STEP [--out FILE]

Both are runs with `model.lora` from one base. Clients ask both names in turn, streaming; meanwhile A is promoted to a step of
its own and back. Memory is what a process shares with nobody (unique set size), of the replicas and their engines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

from benchmarks.machine import hardware, versions
from benchmarks.serving_load import Phase, ask
from rlft_core.config.recipe import ClusterConfig
from services.serving.app import ServiceConfig
from services.serving.run import served_models, service
from services.serving.settings import EngineOptions, Scaling

_DEADLINE_S = 300.0
_TEXT = "A library of small functions that read, check and write configuration files in several formats."


async def measured(url: str, names: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Quiet, then promotes; answers count for the phase in which they were asked."""
    phases = {"quiet": Phase(), "promotes": Phase()}
    now, stopped, promotes = "quiet", False, []
    async with (
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=_DEADLINE_S) as client,
        httpx.AsyncClient(base_url=url, timeout=_DEADLINE_S) as admin,
    ):

        async def clients(number: int) -> None:
            turn = number
            while not stopped:
                await ask(
                    client, names[turn % len(names)], _TEXT, phases[now], max_tokens=options.max_tokens, stream=True
                )
                turn += 1

        await asyncio.gather(*(ask(client, name, _TEXT, Phase(), max_tokens=4, stream=True) for name in names))
        tasks = [asyncio.ensure_future(clients(number)) for number in range(options.clients)]
        await asyncio.sleep(options.seconds)
        memory, now = unique_bytes(), "promotes"
        for spec in (options.to, options.runs[0].name) * options.promotes:
            started = time.monotonic()
            (await admin.post(f"/admin/models/{names[0]}/promote", json={"run": spec})).raise_for_status()
            promotes.append(time.monotonic() - started)
            await asyncio.sleep(2.0)
        stopped = True
        await asyncio.gather(*tasks)
    figures = {name: phase.figures() for name, phase in phases.items()}
    return {"unique_bytes": memory, "promote_s": promotes, "phases": figures}


def unique_bytes() -> dict[str, int]:
    """Memory of the replicas of policies and of their engines, by kind, and how many there are."""
    found: dict[str, int] = {"replicas": 0, "engines": 0, "num_engines": 0}
    for process in psutil.Process(os.getpid()).children(recursive=True):
        name = " ".join(process.cmdline())
        kind = "engines" if "EngineCore" in name else "replicas" if "PolicyReplica" in name or "model-" in name else ""
        if kind:
            found[kind] += process.memory_full_info().uss
            found["num_engines"] += kind == "engines"
    return found


def main() -> None:
    """Print a table, and write all numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--to", required=True, help="RUN[:STAGE]@STEP that the first is promoted to")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--promotes", type=int, default=2, help="there and back so many times")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--max-tokens", type=int, default=24)
    parser.add_argument("--port", type=int, default=8124)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"hardware": hardware(), "versions": versions(), "clients": options.clients}
    for form, merged in (("adapters", False), ("merged", True)):
        with tempfile.TemporaryDirectory() as folder:
            runs_dir, state = options.runs[0].parent.absolute(), Path(folder, "state.json")
            names = [f"m{number}" for number in range(len(options.runs))]
            specs = [run.name for run in options.runs]
            models = served_models(specs, names, runs_dir, state, print, merged=merged)
            engine = EngineOptions(kv_cache_mb=128)
            config = ServiceConfig(models, runs_dir, state, options=engine, scaling=Scaling(1, 1))
            started = time.monotonic()
            with service(config, ClusterConfig(object_store_mb=128), "127.0.0.1", options.port) as url:
                result[form] = {"start_s": time.monotonic() - started, **asyncio.run(measured(url, names, options))}
    show(result)
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def show(result: dict[str, Any]) -> None:
    """A table in Markdown."""
    print("| form | engines | MiB | phase | answers | failed | s p50 | p95 | first token p50 | longest | promotes s |")
    print("|" + "---|" * 11)
    for form in ("adapters", "merged"):
        one = result[form]
        mib = (one["unique_bytes"]["replicas"] + one["unique_bytes"]["engines"]) / 2**20
        for phase, found in one["phases"].items():
            times = (f"{found.get(key, float('nan')):.2f}" for key in ("seconds_p50", "seconds_p95", "to_first_p50"))
            longest = f"{found.get('to_first_max', float('nan')):.2f}"
            promotes = ", ".join(f"{s:.1f}" for s in one["promote_s"]) if phase == "promotes" else ""
            print(
                f"| {form} | {one['unique_bytes']['num_engines']} | {mib:.0f} | {phase} | {found['answers']} | "
                f"{found['failures']} | {' | '.join(times)} | {longest} | {promotes} |"
            )


if __name__ == "__main__":
    main()
