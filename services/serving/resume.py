"""The rest of a stream whose replica was lost: asked of another one, which goes on from the text that has been sent.

Sampling goes on from the same words, so the answer is one that the model could have given; a seed's draws are not repeated. It
cannot be done where an event tells more than text: log-probs, several choices, prompts of tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlft_core.serving.requests import CHAT

_TELLS_MORE = ("logprobs", "top_logprobs", "prompt_logprobs", "echo", "return_token_ids", "suffix", "tools")
_LIMITS = ("max_tokens", "max_completion_tokens")
_SHORTEST = 16  # what OpenAI's text completions write when no length is asked for


@dataclass(slots=True)
class Sent:
    """What has been sent of a stream. An event with text counts as one token; `num_before`: those of replicas that were lost."""

    text: str = ""
    num_events: int = 0
    num_before: int = 0
    identity: tuple[str, int] | None = None
    finished: bool = False

    def take(self, event: bytes) -> None:
        """An event that is about to be sent."""
        content = _content(event)
        if content is None:
            return
        if self.identity is None:
            self.identity = (content["id"], content["created"])
        for choice in content.get("choices") or ():
            piece = (choice["delta"].get("content") if "delta" in choice else choice.get("text")) or ""
            self.text += piece
            self.num_events += bool(piece)
            self.finished = self.finished or choice.get("finish_reason") is not None

    def rest_of(self, path: str, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """The request for what is missing; None where a stream cannot go on."""
        prompt = body.get("prompt")
        if self.finished or (body.get("n") or 1) > 1 or any(body.get(key) for key in _TELLS_MORE):
            return None
        if path != CHAT and not isinstance(prompt, str):
            return None
        self.num_before = self.num_events
        rest = dict(body)
        if path != CHAT and not body.get("max_tokens"):
            rest["max_tokens"] = _SHORTEST
        for key in _LIMITS:
            if rest.get(key):
                rest[key] -= self.num_events
                if rest[key] < 1:
                    return None
        if path != CHAT:
            return rest | {"prompt": f"{prompt}{self.text}"}
        spoken = {"role": "assistant", "content": self.text}
        return rest | {
            "messages": [*body["messages"], spoken],
            "add_generation_prompt": False,
            "continue_final_message": True,
        }

    def joined(self, event: bytes) -> bytes | None:
        """An event of the rest as one of the same stream; None for one that would say its beginning again."""
        content = _content(event)
        if content is None or self.identity is None:
            return event
        content["id"], content["created"] = self.identity
        if content.get("usage"):
            usage = content["usage"]
            usage["prompt_tokens"] -= self.num_before
            usage["completion_tokens"] += self.num_before
        elif all("role" in choice.get("delta", {}) for choice in content["choices"]):
            return None
        return f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


def _content(event: bytes) -> dict[str, Any] | None:
    if not event.startswith(b"data: {"):
        return None
    content: dict[str, Any] = json.loads(event.removeprefix(b"data: "))
    return content if "id" in content else None
