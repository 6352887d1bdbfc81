"""Counts of the gateway: in memory, for tests and for those who measure nothing, or as Prometheus metrics through Ray."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from ray.util import metrics

_SECONDS = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]


class Meters(Protocol):
    """What the gateway tells of its work."""

    def request(self, model: str, status: int, seconds: float, num_attempts: int) -> None:
        """A request that was answered, or whose stream began."""

    def tokens(self, prompt: int, completion: int) -> None:
        """Of an answer that is complete."""


class CountingMeters:
    """In memory."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.prompt_tokens = self.completion_tokens = self.num_retries = 0

    def request(self, model: str, status: int, seconds: float, num_attempts: int) -> None:
        self.requests[model, status] += 1
        self.num_retries += num_attempts - 1

    def tokens(self, prompt: int, completion: int) -> None:
        self.prompt_tokens += prompt
        self.completion_tokens += completion


class RayMeters:
    """`ray_rlft_serve_*` at every node's metrics port."""

    def __init__(self) -> None:
        self._requests = metrics.Counter("rlft_serve_requests", "Requests answered.", tag_keys=("model", "status"))
        self._retries = metrics.Counter("rlft_serve_retries", "Attempts after a lost replica.", tag_keys=("model",))
        self._seconds = metrics.Histogram(
            "rlft_serve_seconds", "Time to an answer, or to a stream's first tokens.", _SECONDS, tag_keys=("model",)
        )
        self._tokens = metrics.Counter("rlft_serve_tokens", "Tokens read and written.", tag_keys=("kind",))

    def request(self, model: str, status: int, seconds: float, num_attempts: int) -> None:
        self._requests.inc(1, {"model": model, "status": str(status)})
        self._seconds.observe(seconds, {"model": model})
        if num_attempts > 1:
            self._retries.inc(num_attempts - 1, {"model": model})

    def tokens(self, prompt: int, completion: int) -> None:
        for kind, count in (("prompt", prompt), ("completion", completion)):
            if count:
                self._tokens.inc(count, {"kind": kind})
