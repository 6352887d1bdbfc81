"""Which requests a canary gets, and how many requests and tokens a key may have. Numbers in, decisions out.

Times are given by the caller, in seconds of any clock that only goes forward.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

_BUCKETS = 10_000


def to_canary(percent: float, number: int, user: str | None = None) -> bool:
    """Whether request `number` (0, 1, ...) goes to the canary.

    Of any 100 requests in a row `percent` do, to the nearest whole one. All requests of one `user` go the same way, so that
    nobody sees two models in one conversation; the share then is one of users.
    """
    if user is not None:
        drawn = int.from_bytes(hashlib.sha256(user.encode()).digest()[:8], "big") % _BUCKETS
        return drawn < percent * _BUCKETS / 100.0
    return math.floor((number + 1) * percent / 100.0 + 1e-9) > math.floor(number * percent / 100.0 + 1e-9)


@dataclass(slots=True)
class Bucket:
    """Fills up by `rate` a second to at most `size`."""

    rate: float
    size: float
    level: float
    at: float

    def wait_s(self, now: float) -> float:
        """How long until something may be taken; 0 when it may be now. A bucket in debt is waited for."""
        self.level = min(self.size, self.level + (now - self.at) * self.rate)
        self.at = now
        return 0.0 if self.level > 0.0 else (1e-3 - self.level) / self.rate


@dataclass(slots=True)
class Allowance:
    """What each key may have a minute; 0 is without a limit. Buckets of those who have long been away are forgotten.

    Tokens are known when an answer is complete: they are taken then, and a key in debt waits until it is paid.
    """

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    _requests: dict[str, Bucket] = field(default_factory=dict)
    _tokens: dict[str, Bucket] = field(default_factory=dict)

    def take_request(self, key: str, now: float) -> float:
        """0 when the request may go on, and it is counted; else seconds to wait."""
        waits = [0.0]
        if self.tokens_per_minute:
            waits.append(_bucket(self._tokens, key, self.tokens_per_minute, now).wait_s(now))
        if self.requests_per_minute:
            bucket = _bucket(self._requests, key, self.requests_per_minute, now)
            waits.append(
                0.0 if bucket.wait_s(now) == 0.0 and bucket.level >= 1.0 else (1.0 - bucket.level) / bucket.rate
            )
        wait = max(waits)
        if wait == 0.0 and self.requests_per_minute:
            self._requests[key].level -= 1.0
        return wait

    def take_tokens(self, key: str, count: int, now: float) -> None:
        """An answer's tokens, prompt and completion."""
        if self.tokens_per_minute:
            bucket = _bucket(self._tokens, key, self.tokens_per_minute, now)
            bucket.wait_s(now)
            bucket.level -= count


def _bucket(buckets: dict[str, Bucket], key: str, per_minute: int, now: float) -> Bucket:
    if key not in buckets:
        for other in [name for name, bucket in buckets.items() if now - bucket.at > 600.0]:
            del buckets[other]
        buckets[key] = Bucket(per_minute / 60.0, float(per_minute), float(per_minute), now)
    return buckets[key]
