"""What `rlft serve` refuses before it starts anything, and the commands that change a running service."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlft_core.config.postprocess import PostprocessConfig
from rlft_core.errors import ConfigError, ResourceError, ServiceError
from rlft_core.serving.state import read_state, write_state
from services.cli.main import app
from services.cli.serving import postprocess_of
from services.keys import Keys, new_key
from services.serving.app import ServiceConfig
from services.serving.client import ServiceClient
from services.serving.run import check_address, check_memory, needs_of, served_models
from services.serving.settings import EngineOptions, Scaling


def call(*arguments: str, **variables: str) -> Any:
    return CliRunner(env=variables).invoke(app, list(arguments))


def test_a_key_is_shown_once_and_its_entry_is_what_the_service_reads() -> None:
    result = call("key", "ops", "--admin")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "Key, shown this once:"
    assert lines[1].startswith("rlft-")
    assert lines[4].startswith("ops:")
    assert lines[4].endswith(":admin")
    assert lines[1] not in lines[4]
    bad = call("key", "a b")
    assert bad.exit_code == 2
    assert "the name of a key has letters" in bad.stderr


def test_models_are_named_as_they_were_asked_for_or_as_told(runs_dir: Path, tmp_path: Path) -> None:
    told: list[str] = []
    found = served_models(["first", "second@4"], ["mine"], runs_dir, tmp_path / "state.json", told.append)
    assert [(served.name, served.current.label) for served in found] == [
        ("mine", "first:sft"),
        ("second@4", "second:sft@4"),
    ]
    assert told == []
    for specs, names, said in (
        (["first"], ["a", "b"], r"there are 2 --name for 1 runs"),
        (["first", "second"], ["a", "a"], r"two models would be called 'a'"),
        (["first"], ["a b"], r"a model's name has letters"),
    ):
        with pytest.raises(ConfigError, match=said):
            served_models(specs, names, runs_dir, tmp_path / "state.json", told.append)


def test_a_restart_remembers_what_was_promoted(runs_dir: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    (first,) = served_models(["first"], ["m"], runs_dir, state, print)
    (second,) = served_models(["second"], ["m"], runs_dir, state, print)
    write_state(state, {"m": first.promoted(second.current)})
    told: list[str] = []
    (again,) = served_models(["first"], ["m"], runs_dir, state, told.append)
    assert again == read_state(state)["m"]
    assert told == ["model 'm' stands for second:sft, which was promoted; rlft rollback undoes it"]


def test_other_machines_are_let_in_with_keys_only() -> None:
    with pytest.raises(ConfigError, match=r"--host 0.0.0.0 lets other machines in, and there are no API keys"):
        check_address("0.0.0.0", 0, Keys())
    check_address("127.0.0.1", 0, Keys())
    check_address("0.0.0.0", 0, Keys((new_key("a")[1],)))


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--port {port} of 127.0.0.1 cannot be used .*give another --port"):
            check_address("127.0.0.1", port, Keys())


def test_a_model_that_does_not_fit_is_told_with_both_numbers(runs_dir: Path, tmp_path: Path) -> None:
    models = served_models(["first"], [], runs_dir, tmp_path / "state.json", print)
    config = ServiceConfig(models, runs_dir, tmp_path / "state.json", options=EngineOptions(kv_cache_mb=1024))
    with pytest.raises(ResourceError, match=r"first:sft needs 1.0 GiB in a replica .* has 0.5 GiB available"):
        check_memory(models, config, 1 << 29)
    many = replace(config, scaling=Scaling(4, 4))
    with pytest.raises(ResourceError, match=r"1 models with 4 replicas need about 4.0 GiB"):
        check_memory(models, many, 2 << 30)
    check_memory(models, config, 4 << 30)
    assert needs_of(many).num_cpus == 5  # and one for a canary


def test_postprocessing_on_the_command_line() -> None:
    assert postprocess_of(()) is None
    assert postprocess_of(["first_line=true", "max_words=12"]) == PostprocessConfig(first_line=True, max_words=12)
    with pytest.raises(ConfigError, match=r"--postprocess first_line: write STEP=VALUE"):
        postprocess_of(["first_line"])
    with pytest.raises(ConfigError, match=r"--postprocess max_word: .*; steps are strip_prefixes, first_line"):
        postprocess_of(["max_word=3"])


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["third"], "there is no run 'third'"),
        (["../first"], "they are not paths"),
        (["first", "--host", "0.0.0.0"], "lets other machines in, and there are no API keys"),
        (["first", "--keys", "none.txt"], "there is no such file of API keys"),
        (["first", "--postprocess", "x"], "write STEP=VALUE"),
    ],
)
def test_what_can_be_known_beforehand_is_told_before_anything_starts(
    arguments: list[str], said: str, runs_dir: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(runs_dir, tmp_path / "runs"))
    result = call("serve", *arguments, "--runs-dir", str(own), "--port", "18473")
    assert result.exit_code == 2
    assert said in result.stderr


# The client of the administration, against a service of a few lines


class Service(HTTPServer):
    """Answers every request with `status` and `content`, and keeps what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.content: Any = {}
        self.asked: list[tuple[str, str, str | None, Any]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.loads(raw) if raw else None
        self.server.asked.append((self.command, self.path, self.headers.get("authorization"), body))
        sent = json.dumps(self.server.content).encode()
        self.send_response(self.server.status)
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    thread.join(5)
    made.server_close()


def shown(**changes: Any) -> dict[str, Any]:
    return {"model": "m", "checkpoint": "a:sft", "canary": None, "percent": 0.0, "replicas": [1, 2]} | changes


def test_promote_and_rollback_ask_the_service_with_the_key(service: Service) -> None:
    url = f"http://127.0.0.1:{service.server_port}/v1"
    service.content = shown(checkpoint="b:sft@4", models=[{"model": "org/m"}])
    result = call("promote", "b@4", "--url", url, "--percent", "12.5", RLFT_API_KEY="secret")
    assert result.exit_code == 0, result.output
    assert result.stdout == "m: b:sft@4 (2 replicas)\n"
    assert service.asked == [
        ("GET", "/admin/models", "Bearer secret", None),
        ("POST", "/admin/models/org/m/promote", "Bearer secret", {"run": "b@4", "percent": 12.5}),
    ]
    service.content = shown(canary="b:sft", percent=5.0)
    assert ServiceClient(url, {}).rollback("m") == "m: a:sft, and b:sft for 5 % of the requests (2 replicas)"
    assert service.asked[-1] == ("POST", "/admin/models/m/rollback", None, {})


@pytest.mark.parametrize(
    "status, error, said",
    [
        (401, ConfigError, r"no key. Put an admin's key into RLFT_API_KEY; `rlft key NAME --admin` makes one"),
        (403, ConfigError, r"Put an admin's key"),
        (409, ConfigError, r"^no key$"),
        (500, ServiceError, r"^no key$"),
    ],
)
def test_what_the_service_refuses_is_told(status: int, error: type[Exception], said: str, service: Service) -> None:
    service.status, service.content = status, {"error": {"message": "no key"}}
    with pytest.raises(error, match=said):
        ServiceClient(f"http://127.0.0.1:{service.server_port}", {}).rollback("m")


def test_several_models_need_a_name(service: Service) -> None:
    service.content = {"models": [{"model": "a"}, {"model": "b"}]}
    with pytest.raises(ConfigError, match=r"the service has several models; say which by --model: a, b"):
        ServiceClient(f"http://127.0.0.1:{service.server_port}", {}).the_model(None)


def test_an_address_where_nothing_answers_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConfigError, match=rf"--url http://127.0.0.1:{port}: no service of rlft answers there"):
        ServiceClient(f"http://127.0.0.1:{port}", {}).rollback("m")
