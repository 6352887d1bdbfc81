"""What the gateway makes of a complete answer: the best choice of several, cut texts, and events where a stream was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rlft_core.config.postprocess import PostprocessConfig
from rlft_core.postprocess import postprocess
from rlft_core.serving.requests import CHAT, error_content

DONE = b"data: [DONE]\n\n"


def texts_of(path: str, answer: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """(text, whether it ended by itself) of every choice."""
    choices = answer["choices"]
    if path == CHAT:
        return [(c["message"]["content"] or "", c["finish_reason"] == "stop") for c in choices]
    return [(c["text"], c["finish_reason"] == "stop") for c in choices]


def only_choice(answer: Mapping[str, Any], chosen: int) -> dict[str, Any]:
    """The answer with one of its choices. Its usage is that of all: they were all written."""
    return {**answer, "choices": [{**answer["choices"][chosen], "index": 0}]}


def cut(path: str, answer: Mapping[str, Any], config: PostprocessConfig) -> dict[str, Any]:
    """With post-processed texts. Log-probs and token counts stay those of what the model wrote."""
    choices = []
    for choice in answer["choices"]:
        if path == CHAT:
            message = choice["message"]
            text = postprocess(message["content"] or "", config)
            choices.append({**choice, "message": {**message, "content": text}})
        else:
            choices.append({**choice, "text": postprocess(choice["text"], config)})
    return {**answer, "choices": choices}


def as_events(path: str, answer: Mapping[str, Any], *, with_usage: bool) -> list[bytes]:
    """A complete answer as the events of a stream: one for each choice, with all of its text."""
    kind = "chat.completion.chunk" if path == CHAT else answer["object"]
    base = {key: answer[key] for key in ("id", "created", "model")} | {"object": kind}
    events = []
    for choice in answer["choices"]:
        shown = {"index": choice["index"], "logprobs": choice.get("logprobs"), "finish_reason": choice["finish_reason"]}
        if path == CHAT:
            shown["delta"] = {"role": "assistant", "content": choice["message"]["content"]}
        else:
            shown["text"] = choice["text"]
        events.append(_event({**base, "choices": [shown]}))
    if with_usage:
        events.append(_event({**base, "choices": [], "usage": answer["usage"]}))
    return [*events, DONE]


def usage_in(event: bytes) -> dict[str, Any] | None:
    """The usage in the last event of a stream that has one and no choices; None in any other event."""
    if b'"usage"' not in event or not event.startswith(b"data: {"):
        return None
    content = json.loads(event.removeprefix(b"data: "))
    if content.get("choices") or not isinstance(content.get("usage"), dict):
        return None
    usage: dict[str, Any] = content["usage"]
    return usage


def reshaped_error(status: int, body: bytes) -> tuple[int, dict[str, Any]]:
    """An error of vLLM's in OpenAI's shape. What its types refuse is 422, as malformed requests are everywhere here."""
    try:
        told = json.loads(body)["error"]
        message, param = str(told["message"]), told.get("param")
    except (ValueError, KeyError, TypeError):
        return status, error_content(status, body.decode(errors="replace")[:500] or "the engine gave no reason")
    if status == 400 and "validation error" in message.split(":")[0]:
        return 422, error_content(422, message, code="invalid_value", param=param)
    code = "model_not_found" if status == 404 else "context_length_exceeded" if "context length" in message else None
    return status, error_content(status, message, code=code, param=param)


def _event(content: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()
