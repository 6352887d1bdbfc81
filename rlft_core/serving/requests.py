"""What a request for completions must look like before an engine sees it, and how it is refused, in OpenAI's shape.

Only what the gateway itself needs is checked: the rest is vLLM's to check, which serves the protocol.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TOURNAMENT = "tournament"
CHAT, TEXT, SCORE = "/v1/chat/completions", "/v1/completions", "/v1/score"
_MUST_HAVE = {CHAT: "messages", TEXT: "prompt", SCORE: "text_2"}
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
_TYPES |= {409: "conflict_error", 422: "invalid_request_error", 429: "rate_limit_error"}


class Refused(Exception):
    """A request that is answered with an error. `wait_s`: when to come again."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None, wait_s: float = 0.0
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.wait_s = wait_s

    @property
    def content(self) -> dict[str, Any]:
        """The body."""
        return error_content(self.status, self.message, code=self.code, param=self.param)

    @property
    def headers(self) -> dict[str, str]:
        """What goes with it."""
        found = {"Retry-After": str(max(1, math.ceil(self.wait_s)))} if self.status in (429, 503) else {}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Of one request: bytes of its body, tokens asked for, samples, texts in a list; and how many may be in work at once."""

    max_body_bytes: int = 1 << 20
    max_tokens: int = 4096
    max_samples: int = 16
    max_texts: int = 128
    max_at_once: int = 256


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that passed: `body` without what the gateway sees to itself. `best_of` 1 is an ordinary one."""

    path: str
    model: str
    body: dict[str, Any]
    stream: bool
    user: str | None
    best_of: int
    best_of_by: str


def error_content(status: int, message: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = _TYPES.get(status, "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def parse_request(path: str, raw: bytes, limits: RequestLimits) -> Asked:
    """Check a body. Raises Refused with status 422 naming the field."""
    body = _object(raw, limits)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise _bad("model", "is missing: it names one of the models that GET /v1/models lists")
    needed = _MUST_HAVE[path]
    if body.get(needed) in (None, "", []):
        raise _bad(needed, "is missing or empty")
    if path == CHAT:
        _check_messages(body["messages"])
    else:
        _check_texts(needed, body[needed], limits)
    stream = body.get("stream") or False
    if not isinstance(stream, bool):
        raise _bad("stream", f"must be true or false, not {stream!r:.40}")
    if not isinstance(body.get("stream_options") or {}, dict):
        raise _bad("stream_options", "must be an object")
    samples = _count(body, "n", limits.max_samples, 1)
    best_of = _count(body, "best_of", limits.max_samples, 1)
    for key in ("max_tokens", "max_completion_tokens"):
        _count(body, key, limits.max_tokens, 1)
    by = body.get("best_of_by") or TOURNAMENT
    if best_of > 1 and (samples > 1 or not isinstance(by, str)):
        raise _bad("best_of", "gives one answer, the best one: leave out n; best_of_by names a judge, as text")
    if best_of > 1 and path == TEXT and not isinstance(body["prompt"], str):
        raise _bad("prompt", "must be one text where best_of is asked for")
    if best_of > 1 and body.get("temperature") == 0:
        raise _bad("temperature", "0 gives the same answer every time, so there is no best of several; raise it")
    user = body.get("user")
    left = {key: value for key, value in body.items() if key not in ("best_of", "best_of_by")}
    return Asked(path, model, left, stream, user if isinstance(user, str) else None, best_of, by)


def parse_object(raw: bytes, limits: RequestLimits) -> dict[str, Any]:
    """Any JSON object. Raises Refused with status 422."""
    return _object(raw, limits)


def question_of(asked: Asked) -> str:
    """What the answers of a request answer, as a judge is shown it: the last message of the user, or the prompt."""
    if asked.path == TEXT:
        return str(asked.body["prompt"])
    said = [m["content"] for m in asked.body["messages"] if m["role"] == "user"]
    return _text(said[-1]) if said else ""


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))


def _object(raw: bytes, limits: RequestLimits) -> dict[str, Any]:
    if len(raw) > limits.max_body_bytes:
        raise too_large(limits)
    try:
        body = json.loads(raw, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        raise Refused(422, "the body is not JSON, or has a number that is none", code="invalid_json") from None
    if not isinstance(body, dict):
        raise Refused(422, "the body must be a JSON object", code="invalid_json")
    return body


def too_large(limits: RequestLimits) -> Refused:
    """A body that is too long."""
    told = f"the body is longer than the {limits.max_body_bytes} bytes that this service takes"
    return Refused(422, told, code="request_too_large")


def _finite(text: str) -> float:
    """JSON knows no NaN, and what Python makes of 1e999 no sampler should see."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _check_texts(key: str, value: Any, limits: RequestLimits) -> None:
    """Every text of a list is a request of its own; a list of numbers is one prompt's tokens."""
    texts = isinstance(value, list) and not all(isinstance(one, int) for one in value)
    if texts and len(value) > limits.max_texts:
        raise _bad(key, f"has {len(value)} texts, and this service takes {limits.max_texts} at once")


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list):
        raise _bad("messages", "must be a list of messages")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _bad(f"messages[{number}]", "must be an object with a role and a content")
        if not isinstance(message.get("content"), str | list):
            raise _bad(f"messages[{number}].content", "must be text, or a list of parts")


def _count(body: Mapping[str, Any], key: str, most: int, default: int) -> int:
    value = body.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise _bad(key, f"must be a whole number from 1 to {most}, which this service allows; it is {value!r:.40}")
    return value


def _bad(param: str, told: str) -> Refused:
    return Refused(422, f"{param} {told}", code="invalid_value", param=param)
