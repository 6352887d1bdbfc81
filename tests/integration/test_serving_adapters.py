"""Adapters of one base behind one engine, which comes when it is asked for and goes when nobody asks; a restart that remembers.

One folder of runs and one service after the other for all tests of this file, in their order.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from rlft_core.checkpoints.folder import write_manifest
from rlft_core.models.tiny import make_tiny_model
from tests.integration.serving_client import HELLO, Load, Running, in_thread, served, wait_until
from tests.integration.serving_support import MAX_LENGTH, make_adapter_run
from tests.integration.support import descendants

pytestmark = pytest.mark.integration

ASKED = ("low", "high", "--name", "a", "--name", "b", "--scale-to-zero", "--idle", "8", "--kv-cache-mb", "32")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "runs").mkdir()
    start = make_tiny_model(folder / "base", seed=7, context=MAX_LENGTH, dtype=torch.bfloat16)
    make_adapter_run(folder / "runs", "low", start, seed=1)
    make_adapter_run(folder / "runs", "high", start, seed=2, rank=12)
    return folder


@pytest.fixture(scope="module")
def running(base: Path) -> Iterator[Running]:
    with served(base, *ASKED) as made:
        yield made


def shown(running: Running) -> dict[str, dict[str, Any]]:
    return {entry["model"]: entry for entry in running.overview()}


def ask(running: Running, model: str) -> tuple[str, str]:
    """The checkpoint that answered, and its greedy answer."""
    raw = running.client().chat.completions.with_raw_response.create(
        model=model, messages=HELLO, max_tokens=12, temperature=0, logprobs=True
    )
    answer = raw.parse()
    assert answer.model == model
    return raw.headers["x-rlft-checkpoint"], answer.choices[0].message.content or ""


def test_one_engine_comes_when_it_is_asked_for_and_answers_to_both_names(running: Running) -> None:
    ready = httpx.get(f"{running.url}/ready", timeout=30).json()
    assert (ready["ready"], ready["without_replica"]) == (True, ["a", "b"])
    answers = {name: ask(running, name) for name in ("a", "b")}
    assert [answers[name][0] for name in "ab"] == ["low:sft", "high:sft"]
    assert answers["a"][1] != answers["b"][1]
    found = shown(running)
    assert found["a"]["shares_engines_with"] == ["b"]
    assert [one["pid"] for one in found["a"]["replicas"]] == [one["pid"] for one in found["b"]["replicas"]]
    cores = [one for one in descendants(running.process.pid) if "EngineCore" in " ".join(one.cmdline())]
    assert len(cores) == 1
    best = running.client().chat.completions.create(
        model="b", messages=HELLO, max_tokens=5, temperature=1.0, extra_body={"best_of": 3}
    )
    assert (best.model, len(best.choices)) == ("b", 1)


def test_a_promote_of_one_adapter_disturbs_neither_its_own_requests_nor_the_others(running: Running) -> None:
    done = asyncio.Event()

    async def change() -> None:
        await asyncio.sleep(1.0)
        for spec in ("low@4", "low", "low@4"):
            told = await in_thread("promote", spec, "--model", "a", made=running)
            assert told == f"a: {spec.replace('low', 'low:sft')} (1 replicas)\n"
        done.set()

    async def both() -> None:
        await asyncio.gather(mine.run(change), other.run(done.wait))

    mine, other = Load(running.url, 3, model="a"), Load(running.url, 3, model="b")
    asyncio.run(both())
    assert mine.failures == other.failures == []
    assert {checkpoint for checkpoint, _ in mine.answers} == {"low:sft", "low:sft@4"}
    # Greedy answers: one text for each checkpoint, so none was begun with one adapter and ended with another.
    assert len(mine.answers) == 2, mine.answers
    assert len(other.answers) == 1, other.answers


def test_an_adapter_that_does_not_load_changes_nothing(running: Running) -> None:
    home = running.runs_dir / "broken" / "stages" / "sft" / "model"
    shutil.copytree(running.runs_dir / "low", running.runs_dir / "broken")
    (home / "adapter" / "adapter_model.safetensors").write_bytes(b"no tensors, whatever its manifest says")
    write_manifest(home)
    before = ask(running, "a")
    answer = httpx.post(f"{running.url}/admin/models/a/promote", json={"run": "broken"}, timeout=120)
    assert answer.status_code == 500
    told = answer.json()["error"]["message"]
    assert "broken:sft was not taken, and low:sft@4 stays: the adapter of broken:sft could not be loaded: " in told
    assert ask(running, "a") == before


def test_a_canary_is_another_adapter_of_the_same_engine(running: Running) -> None:
    before = [one["pid"] for one in shown(running)["b"]["replicas"]]
    told = running.rlft("promote", "high@4", "--model", "b", "--percent", "50")
    assert told == "b: high:sft, and high:sft@4 for 50 % of the requests (1 replicas)\n"
    time.sleep(1.0)
    answers = Counter(ask(running, "b") for _ in range(6))
    assert sorted((checkpoint, count) for (checkpoint, _), count in answers.items()) == [
        ("high:sft", 3),
        ("high:sft@4", 3),
    ]
    assert [one["pid"] for one in shown(running)["b"]["canary_replicas"]] == before
    assert running.rlft("rollback", "--model", "b") == "b: high:sft (1 replicas)\n"
    assert {ask(running, "b")[0] for _ in range(4)} == {"high:sft"}


def test_the_engine_goes_when_nobody_asks(running: Running) -> None:
    wait_until(lambda: shown(running)["a"]["replicas"] == [], running, 120.0)
    assert shown(running)["b"]["replicas"] == []
    wait_until(
        lambda: not any("EngineCore" in " ".join(p.cmdline()) for p in descendants(running.process.pid)), running, 60.0
    )


def test_a_restart_goes_on_with_what_was_promoted(running: Running, base: Path) -> None:
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(90) == 0
    state = json.loads((base / "runs" / ".serving" / "state.json").read_text())
    assert [one["current"]["label"] for one in state["models"]] == ["low:sft@4", "high:sft"]
    with served(base, *ASKED) as again:
        assert "model 'a' stands for low:sft@4, which was promoted; rlft rollback undoes it" in again.log.read_text()
        assert ask(again, "a")[0] == "low:sft@4"
        assert again.rlft("rollback", "--model", "a") == "a: low:sft (1 replicas)\n"
        assert ask(again, "a")[0] == "low:sft"
        started = time.monotonic()
        again.process.send_signal(signal.SIGTERM)
        assert again.process.wait(90) == 0
        assert time.monotonic() - started < 60.0
