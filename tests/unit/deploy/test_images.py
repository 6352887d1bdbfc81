"""The images, as far as a machine without a container engine can tell: what is copied, installed and called.

Stages of the Dockerfile are read here; the files that an image would hold are put into a folder and rlft is started there.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rlft_core.models.cache import cache_root
from tests.unit.clone import files_in_a_clone
from tests.unit.deploy.support import DEPLOY, PARTS, ROOT, containers, render

DOCKERFILE = ROOT / "docker" / "Dockerfile"
FETCH = ROOT / "docker" / "fetch-models.sh"
FINAL = ("cpu", "gpu")


@dataclass
class Stage:
    """One `FROM ... AS name`, with its instructions in order."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def told(self, instruction: str) -> list[str]:
        return [text for name, text in self.steps if name == instruction]


def stages() -> dict[str, Stage]:
    text = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE))
    found: dict[str, Stage] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = Stage(name, base)
        elif found:
            found[[*found][-1]].steps.append((instruction, rest))
    return found


def line_of(name: str) -> list[Stage]:
    """The stage and those that it is built on, the first of them first."""
    found = stages()
    above: list[Stage] = []
    while name in found:
        above.insert(0, found[name])
        name = found[name].base
    return above


def in_context() -> Iterator[str]:
    """The project's files that reach an image: those of a clone, without what .dockerignore leaves out."""
    ignored = [line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").split()]
    for name in files_in_a_clone():
        parts = Path(name).parts
        if not any(fnmatch.fnmatch(part, rule) for part in parts for rule in ignored):
            yield name


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what an image holds beside its packages."""
    folder = tmp_path_factory.mktemp("image") / "app"
    for name in in_context():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


def call(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program in that folder, in an environment that knows nothing of this clone."""
    kept = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=folder, env=kept | env, capture_output=True, text=True, check=False, timeout=280)


# What the Dockerfile says


def test_final_stages_are_those_that_documents_and_manifests_name() -> None:
    assert set(FINAL) <= set(stages())
    texts = [path.read_text(encoding="utf-8") for path in (DOCKERFILE, DEPLOY / "README.md")]
    targets = re.findall(r"--target (\w+) -t rlft:[\d.]+-(\w+)", "\n".join(texts))
    assert set(targets) == {("cpu", "cpu"), ("gpu", "gpu")}


@pytest.mark.parametrize("name", FINAL)
def test_an_image_ends_as_a_user_that_is_not_root(name: str) -> None:
    users = [user for stage in line_of(name) for user in stage.told("USER")]
    assert users[-1] == "rlft"
    made = " ".join(text for stage in line_of(name) for text in stage.told("RUN"))
    assert "useradd --create-home --uid 1000 rlft" in made


def test_the_base_image_has_a_full_version() -> None:
    (base,) = re.findall(r"^ARG BASE=(\S+)$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert re.fullmatch(r"python:3\.1[1-4]\.\d+-slim-\w+", base)


@pytest.mark.parametrize("kind", FINAL)
def test_packages_come_from_the_lock_in_which_every_version_is_fixed(kind: str) -> None:
    (install,) = stages()[f"packages-{kind}"].told("RUN")
    assert install.startswith(f"make setup EXTRA={kind} && ")
    lock = (ROOT / "requirements" / f"{kind}.txt").read_text(encoding="utf-8")
    names = [line for line in lock.splitlines() if line and not line.lstrip().startswith("#")]
    assert [line for line in names if not re.match(r"[\w.-]+==[\w.+!]+( ;|$)", line)] == []
    assert f"--from=packages-{kind} /home/rlft/app/.venv .venv" in " ".join(stages()[kind].told("COPY"))


def test_no_compiler_stays_in_the_cpu_image_and_no_weights_in_either() -> None:
    assert "gcc" not in " ".join(text for stage in line_of("cpu") for text in stage.told("RUN"))
    for kind in FINAL:
        (install,) = stages()[f"packages-{kind}"].told("RUN")
        assert "uv pip uninstall --python .venv/bin/python --requirement requirements/assets.txt" in install
    large = [name for name in in_context() if Path(name).suffix in {".safetensors", ".gguf", ".bin", ".pt"}]
    assert large == []


def test_everything_that_is_copied_is_there() -> None:
    names = set(in_context())
    sources = [
        source
        for stage in stages().values()
        for text in stage.told("COPY")
        if "--from=" not in text
        for source in [word for word in text.split() if not word.startswith("--")][:-1]
    ]
    assert "requirements" in sources
    missing = [s for s in sources if s != "." and s not in names and not any(n.startswith(f"{s}/") for n in names)]
    assert missing == []


def test_every_step_is_what_a_shell_can_read() -> None:
    for stage in stages().values():
        for text in stage.told("RUN"):
            subprocess.run(["sh", "-n", "-c", text], check=True, timeout=60)


def test_what_manifests_call_is_in_the_image() -> None:
    names = set(in_context())
    assert {"docker/fetch-models.sh", "scripts/uv-env.sh", "requirements/assets.txt"} <= names
    assert {"recipes/quickstart.yaml", "recipes/ppo_8gpu.yaml", "data/synopses/train.jsonl"} <= names
    home = "/home/rlft/app/"
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    called = set(re.findall(rf"--entrypoint {home}(\S+)", text))
    for part in PARTS:
        for container in containers(render(DEPLOY / "kuberay" / "base" / part)):
            called |= {word.removeprefix(home) for word in container.get("command", []) if word.startswith(home)}
    assert called == {"docker/fetch-models.sh"}
    assert os.access(ROOT / "docker" / "fetch-models.sh", os.X_OK)


# What can be run


def test_the_empty_project_of_the_first_layers_can_be_installed(tmp_path: Path) -> None:
    """The steps of the stage `installer`, as they stand in the Dockerfile, and then what installing begins with."""
    installer = stages()["installer"]
    for text in installer.told("COPY"):
        *sources, target = [word for word in text.split() if not word.startswith("--")]
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / target)
            else:
                shutil.copy2(ROOT / source, tmp_path / target)
    assert call(tmp_path, "sh", "-c", installer.told("RUN")[-1]).returncode == 0
    (tmp_path / "out").mkdir()
    build = "from setuptools import build_meta; print(build_meta.prepare_metadata_for_build_editable('out'))"
    said = call(tmp_path, "python", "-c", build)
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "out" / said.stdout.split()[-1] / "METADATA").is_file()
    planned = call(tmp_path, "make", "--dry-run", "setup", "EXTRA=cpu")
    assert planned.stdout.split() == ["scripts/setup.sh", "cpu"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--help"], "Answers of a run's model."),
        (["check", "recipes/quickstart.yaml", "--no-tokenizer"], "Ready to run."),
        (["doctor", "--json"], '"checks"'),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_rlft_starts_from_what_an_image_holds(context: Path, words: list[str], said: str) -> None:
    result = call(context, "python", "-m", "services.cli.main", *words, COLUMNS="120")
    assert said in result.stdout, result.stderr
    imported = call(context, "python", "-c", "import services; print(services.__file__)").stdout
    assert imported.strip() == str(context / "services" / "__init__.py")


def test_the_script_that_fetches_models_says_what_it_needs(context: Path) -> None:
    result = call(context, "docker/fetch-models.sh")
    assert result.returncode != 0
    assert "usage: docker/fetch-models.sh VOLUME" in result.stderr


@pytest.mark.slow
def test_a_volume_that_has_the_packages_is_laid_out_without_a_network(context: Path, tmp_path: Path) -> None:
    """Second time and later: nothing is fetched. The model is the one that this machine's cache holds."""
    (context / ".venv").symlink_to(Path(sys.prefix))
    models = tmp_path / "models"
    (models / "packages").mkdir(parents=True)
    (models / "cache").symlink_to(cache_root())
    digest = subprocess.run(
        ["sha256sum", "requirements/assets.txt"], cwd=context, capture_output=True, text=True, check=True, timeout=60
    )
    (models / "packages" / ".rlft-assets").write_text(digest.stdout.split()[0] + "\n")
    result = call(context, "docker/fetch-models.sh", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert (Path(result.stdout.split()[-1]) / "config.json").is_file()
    assert (tmp_path / "runs").is_dir()
    assert (models / "hub").is_dir()
