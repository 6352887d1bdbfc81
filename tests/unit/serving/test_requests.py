"""What a request must look like, and how it is refused in OpenAI's shape."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rlft_core.serving.requests import CHAT, SCORE, TEXT, Refused, RequestLimits, parse_request, question_of

LIMITS = RequestLimits(max_body_bytes=2000, max_tokens=100, max_samples=4, max_texts=8)
HELLO = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello"}]


def refused(path: str, body: Any) -> Refused:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Refused) as caught:
        parse_request(path, raw, LIMITS)
    return caught.value


def test_a_good_request_keeps_what_is_for_the_engine() -> None:
    body = {
        "model": "m",
        "messages": HELLO,
        "best_of": 3,
        "best_of_by": "rm",
        "stop": ["x"],
        "user": "u",
        "stream": True,
    }
    asked = parse_request(CHAT, json.dumps(body).encode(), LIMITS)
    assert (asked.model, asked.stream, asked.user, asked.best_of, asked.best_of_by) == ("m", True, "u", 3, "rm")
    assert asked.body == {"model": "m", "messages": HELLO, "stop": ["x"], "user": "u", "stream": True}


def test_what_is_not_given_has_openais_defaults() -> None:
    asked = parse_request(TEXT, b'{"model": "m", "prompt": "x", "n": null, "stream": null}', LIMITS)
    assert (asked.stream, asked.user, asked.best_of, asked.best_of_by) == (False, None, 1, "tournament")


@pytest.mark.parametrize(
    "path, body, param, said",
    [
        (TEXT, b"{", None, "not JSON"),
        (TEXT, b"[" * 1500, None, "not JSON"),
        (TEXT, b"\xff", None, "not JSON"),
        (TEXT, b'{"model": "m", "prompt": "x", "temperature": NaN}', None, "a number that is none"),
        (TEXT, b'{"model": "m", "prompt": "x", "temperature": 1e999}', None, "a number that is none"),
        (TEXT, {"model": "m", "prompt": ["x"] * 9}, "prompt", "has 9 texts, and this service takes 8 at once"),
        (SCORE, {"model": "m", "text_1": "q", "text_2": ["x"] * 9}, "text_2", "has 9 texts"),
        (TEXT, [1], None, "must be a JSON object"),
        (TEXT, {"prompt": "x"}, "model", "model is missing"),
        (TEXT, {"model": 3, "prompt": "x"}, "model", "model is missing"),
        (TEXT, {"model": "m"}, "prompt", "prompt is missing or empty"),
        (TEXT, {"model": "m", "prompt": ""}, "prompt", "prompt is missing or empty"),
        (CHAT, {"model": "m", "messages": []}, "messages", "messages is missing or empty"),
        (CHAT, {"model": "m", "messages": "Hello"}, "messages", "must be a list"),
        (CHAT, {"model": "m", "messages": ["Hello"]}, "messages[0]", "must be an object with a role"),
        (CHAT, {"model": "m", "messages": [*HELLO, {"role": "user"}]}, "messages[2].content", "must be text"),
        (SCORE, {"model": "m", "text_1": "q"}, "text_2", "text_2 is missing or empty"),
        (TEXT, {"model": "m", "prompt": "x", "stream": "yes"}, "stream", "must be true or false, not 'yes'"),
        (TEXT, {"model": "m", "prompt": "x", "stream_options": "x"}, "stream_options", "must be an object"),
        (TEXT, {"model": "m", "prompt": "x", "n": 0}, "n", "from 1 to 4, which this service allows; it is 0"),
        (TEXT, {"model": "m", "prompt": "x", "n": True}, "n", "must be a whole number"),
        (TEXT, {"model": "m", "prompt": "x", "n": 5}, "n", "from 1 to 4"),
        (TEXT, {"model": "m", "prompt": "x", "max_tokens": 101}, "max_tokens", "from 1 to 100"),
        (
            CHAT,
            {"model": "m", "messages": HELLO, "max_completion_tokens": -1},
            "max_completion_tokens",
            "from 1 to 100",
        ),
        (TEXT, {"model": "m", "prompt": "x", "best_of": 9}, "best_of", "from 1 to 4"),
        (TEXT, {"model": "m", "prompt": "x", "best_of": 3, "n": 2}, "best_of", "leave out n"),
        (TEXT, {"model": "m", "prompt": ["x", "y"], "best_of": 3}, "prompt", "must be one text where best_of"),
        (
            TEXT,
            {"model": "m", "prompt": "x", "best_of": 3, "temperature": 0},
            "temperature",
            "the same answer every time",
        ),
    ],
)
def test_what_is_malformed_names_its_field(path: str, body: Any, param: str | None, said: str) -> None:
    error = refused(path, body)
    assert error.status == 422
    assert error.param == param
    assert said in error.message
    assert error.content == {
        "error": {"message": error.message, "type": "invalid_request_error", "param": param, "code": error.code}
    }
    assert error.headers == {}


def test_a_prompt_of_tokens_is_one_prompt() -> None:
    body = {"model": "m", "prompt": [1] * 100, "temperature": 0.5}
    assert parse_request(TEXT, json.dumps(body).encode(), LIMITS).body == body


def test_what_is_too_long_is_not_even_read() -> None:
    error = refused(TEXT, b"x" * 2001)
    assert (error.status, error.code) == (422, "request_too_large")
    assert "longer than the 2000 bytes" in error.message


def test_what_may_be_asked_again_says_when() -> None:
    assert Refused(429, "busy", wait_s=0.2).headers == {"Retry-After": "1"}
    assert Refused(503, "ending", wait_s=4.2).headers == {"Retry-After": "5"}
    assert Refused(401, "who?").headers == {"WWW-Authenticate": "Bearer"}
    assert Refused(429, "busy").content["error"]["type"] == "rate_limit_error"
    assert Refused(401, "who?").content["error"]["type"] == "authentication_error"
    assert Refused(500, "oh").content["error"]["type"] == "server_error"


def test_a_judge_is_shown_what_the_user_said_last() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    messages = [*HELLO, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": parts}]
    asked = parse_request(CHAT, json.dumps({"model": "m", "messages": messages}).encode(), LIMITS)
    assert question_of(asked) == "one two"
    assert question_of(parse_request(TEXT, b'{"model": "m", "prompt": "Hi"}', LIMITS)) == "Hi"
    only_system = parse_request(CHAT, json.dumps({"model": "m", "messages": HELLO[:1]}).encode(), LIMITS)
    assert question_of(only_system) == ""
