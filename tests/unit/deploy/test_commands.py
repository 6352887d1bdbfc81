"""Commands in documents and manifests: rlft's own are parsed by rlft, shell snippets by bash, and the files they name exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.core import TyperGroup
from typer.exceptions import TyperException

from services.cli.main import app
from tests.unit.clone import files_in_a_clone
from tests.unit.deploy.support import DEPLOY, RENDERED, ROOT, containers, render, snippets

DOCUMENTS = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *DEPLOY.rglob("*.md"),
        *ROOT.glob("benchmarks/*.md"),
    ]
    if path.name != "CHANGELOG.md"
)
GROUP: Any = typer.main.get_command(app)


def words_of_rlft(line: str) -> Iterator[list[str]]:
    """The words after `rlft` of each command in a shell line, without redirections, comments and what is piped to."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("();<>|&"):
            names = [at for at, one in enumerate(command) if one == "rlft" or one.endswith("/rlft")]
            # `env --chdir=... rlft run`, `docker run ... rlft run`: the last one is the program.
            words = command[names[-1] + 1 :] if names else []
            if words and command[0] not in ("helm", "kubectl", "kind"):  # to these it is a name
                yield words
            command = []
        else:
            command.append(word)


def in_documents() -> Iterator[tuple[str, list[str]]]:
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        where = path.relative_to(ROOT).as_posix()
        for number, snippet in snippets(text):
            for line in snippet.replace("\\\n", " ").splitlines():
                yield from ((f"{where}:{number}", words) for words in words_of_rlft(line))
        for found in re.finditer(r"`((?:[A-Z_]+=\S+ )*rlft [a-z][^`]*)`", text):
            line = re.sub(r"\s+", " ", found[1])
            yield from ((f"{where}:{text[: found.start()].count(chr(10)) + 1}", words) for words in words_of_rlft(line))


def in_manifests() -> Iterator[tuple[str, list[str]]]:
    for folder in RENDERED:
        found = render(DEPLOY / "kuberay" / folder)
        for one in found:
            if one["kind"] == "RayJob":
                yield from ((folder, words) for words in words_of_rlft(one["spec"]["entrypoint"]))
        for container in containers(found):
            if container.get("command", [None])[0] == "rlft":
                yield folder, container["command"][1:]


def in_recipes() -> Iterator[tuple[str, list[str]]]:
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        for line in re.findall(r"^# +(rlft .*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            yield from ((path.name, words) for words in words_of_rlft(line.partition("#")[0]))


def parse(words: list[str]) -> None:
    """Read a command as `rlft` would, without running it. Raises typer's error for what it does not take."""
    command: Any = GROUP
    context = command.make_context("rlft", list(words))
    while isinstance(command, TyperGroup):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)


ALL = [*in_documents(), *in_manifests(), *in_recipes()]


def test_there_are_commands_to_look_at() -> None:
    told = {where.split(":")[0] for where, _ in ALL}
    assert {"README.md", "deploy/README.md", "docs/guides/last-mile.md", "kueue", "quickstart.yaml"} <= told
    assert {"overlays/kind-cpu/cluster", "overlays/kind-cpu/job"} <= told
    assert len(ALL) > 30


@pytest.mark.parametrize("where, words", ALL, ids=[f"{where} {words[0]}" for where, words in ALL])
def test_our_own_command_line_takes_it(where: str, words: list[str]) -> None:
    if len(words) == 1:  # only named: `rlft run` is told of without what it must be given
        assert words[0] in GROUP.commands
        return
    parse(["anything" if word == "..." else word for word in words])


def test_the_parser_sees_a_wrong_option_and_a_wrong_command() -> None:
    with pytest.raises(TyperException, match=r"No such option.*--nmae"):
        parse(["run", "recipes/quickstart.yaml", "--nmae", "a"])
    with pytest.raises(TyperException, match=r"No such command 'rnu'"):
        parse(["rnu"])
    assert list(words_of_rlft("A=1 rlft run a.yaml --name 'x y' > log 2>&1 && .venv/bin/rlft report x # rlft no")) == [
        ["run", "a.yaml", "--name", "x y"],
        ["report", "x"],
    ]


# Shell


SHELL = [
    pytest.param(text, id=f"{path.relative_to(ROOT).as_posix()}:{number}")
    for path in DOCUMENTS
    for number, text in snippets(path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("text", SHELL)
def test_a_snippet_is_what_bash_can_read(text: str) -> None:
    said = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, check=False, timeout=60)
    assert (said.returncode, said.stderr) == (0, "")


def test_scripts_are_what_bash_can_read_and_may_be_called() -> None:
    scripts = sorted([*ROOT.glob("scripts/*.sh"), *ROOT.glob("docker/*.sh"), ROOT / ".ci" / "run"])
    assert len(scripts) >= 4
    for path in scripts:
        subprocess.run(["bash", "-n", str(path)], check=True, timeout=60)
        if path.name != "uv-env.sh":  # it is read by the others
            assert path.stat().st_mode & 0o111, f"{path.name} cannot be called"


def test_every_file_of_the_project_that_a_command_names_is_there() -> None:
    text = "\n".join(snippet for path in DOCUMENTS for _, snippet in snippets(path.read_text(encoding="utf-8")))
    text += "\n".join(" ".join(words) for _, words in ALL)
    named = set(re.findall(r"(?<![\w/.-])((?:recipes|deploy|docker|data|scripts|docs|examples)/[\w./-]*\w)", text))
    assert {"recipes/quickstart.yaml", "deploy/kuberay/overlays/gpu/shared", "docker/Dockerfile"} <= named
    named.remove("deploy/rlft-viewer")  # kubectl's short name of a Deployment
    made = {name for name in named if Path(name).is_relative_to("data/parables")}  # what the next line's command writes
    assert "python -m benchmarks.parables WHEEL data/parables" in text
    clone = files_in_a_clone()
    assert sorted(name for name in named - made if not any(Path(file).is_relative_to(name) for file in clone)) == []
    applied = set(re.findall(r"kubectl (?:apply|delete) -k (\S+)", text))
    assert {Path(name).relative_to("deploy/kuberay").as_posix() for name in applied} <= set(RENDERED)
