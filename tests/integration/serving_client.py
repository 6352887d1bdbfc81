"""`rlft serve` as a person runs it, and clients that ask it without a pause."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai

from services.keys import new_key
from tests.integration.support import ROOT, descendants

START_S = 500.0
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
SECRET, KEY = new_key("alice")
ADMIN_SECRET, ADMIN = new_key("ops", admin=True)


@dataclass
class Running:
    """A service, and the process that runs it."""

    url: str
    runs_dir: Path
    process: subprocess.Popen[bytes]
    log: Path

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=SECRET, **({"max_retries": 0} | options))

    def overview(self) -> list[dict[str, Any]]:
        headers = {"Authorization": f"Bearer {ADMIN_SECRET}"}
        found: list[dict[str, Any]] = httpx.get(f"{self.url}/admin/models", headers=headers, timeout=30).json()[
            "models"
        ]
        return found

    def rlft(self, *arguments: str) -> str:
        """An `rlft` command against the service, which must succeed."""
        env = {**os.environ, "PYTHONPATH": str(ROOT), "RLFT_API_KEY": ADMIN_SECRET}
        command = [sys.executable, "-m", "services.cli.main", *arguments, "--url", self.url]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(base: Path, *arguments: str) -> Iterator[Running]:
    """`rlft serve ARGUMENTS` in `base`, beside its folder `runs`. Whatever it started is ended with the block, by process id."""
    port, log = free_port(), base / "log.txt"
    command = [sys.executable, "-m", "services.cli.main", "serve", *arguments, "--port", str(port)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env.pop("RAY_ADDRESS", None)
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=base, env=env, stdout=out, stderr=out)
    made = Running(f"http://127.0.0.1:{port}", base / "runs", process, log)
    try:
        wait_until(lambda: "Serving at" in log.read_text(), made)
        yield made
    finally:
        for one in descendants(process.pid):
            one.kill()
        process.kill()
        process.wait(30)


def wait_until(moment: Callable[[], bool], made: Running, seconds: float = START_S) -> None:
    deadline = time.monotonic() + seconds
    while not moment():
        assert made.process.poll() is None, made.log.read_text()
        assert time.monotonic() < deadline, made.log.read_text()
        time.sleep(0.2)


@dataclass
class Load:
    """Clients that ask without a pause until they are told to stop, each once more after that."""

    url: str
    num_clients: int = 6
    model: str = "m"
    stopped: bool = False
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    longest_s: float = 0.0

    async def run(self, during: Callable[[], Awaitable[None]]) -> None:
        async with openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=SECRET, max_retries=0, timeout=300) as client:
            clients = [asyncio.ensure_future(self._client(client, k)) for k in range(self.num_clients)]
            try:
                await during()
            finally:
                self.stopped = True
                await asyncio.gather(*clients)

    async def _client(self, client: openai.AsyncOpenAI, number: int) -> None:
        last = False
        while not last:
            last = self.stopped
            started = time.monotonic()
            try:
                answer = await (self._stream if number % 2 else self._whole)(client)
                self.answers[answer] += 1
            except openai.OpenAIError as error:
                self.failures.append(repr(error))
            self.longest_s = max(self.longest_s, time.monotonic() - started)

    async def _whole(self, client: openai.AsyncOpenAI) -> tuple[str, str]:
        raw = await client.chat.completions.with_raw_response.create(
            model=self.model, messages=HELLO, max_tokens=12, temperature=0
        )
        return raw.headers["x-rlft-checkpoint"], raw.parse().choices[0].message.content or ""

    async def _stream(self, client: openai.AsyncOpenAI) -> tuple[str, str]:
        raw = await client.chat.completions.with_raw_response.create(
            model=self.model, messages=HELLO, max_tokens=12, temperature=0, stream=True
        )
        parts = [event.choices[0].delta.content or "" async for event in raw.parse()]
        return raw.headers["x-rlft-checkpoint"], "".join(parts)


async def in_thread(*arguments: str, made: Running) -> str:
    return await asyncio.to_thread(made.rlft, *arguments)
