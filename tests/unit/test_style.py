"""The rules of CONTRIBUTING.md that no linter knows: sizes, tolerances, where Ray Train may be imported, hosts."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.clone import files_in_a_clone

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("rlft_core", "services")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_TOLERANCE = 1e-3
TOLERANCE_KEYWORDS = {"rtol", "atol", "rel", "abs", "rel_tol", "abs_tol", "tolerance"}

# Path, or "path:function" -> why it may be longer. Empty is the aim.
LONGER_BY_DESIGN: dict[str, str] = {}

# `ray.train` belongs to the learner, `ray.serve` and fastapi to serving: the linter of imports sees only `ray`.
HOMES = {
    "ray.train": ("services/learner/",),
    "ray.serve": ("services/serving/", "services/viewer/"),
    "fastapi": ("services/serving/", "services/viewer/"),
}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def project_files() -> list[Path]:
    """Everything that is, or would be, in a clone."""
    paths = [ROOT / name for name in files_in_a_clone()]
    return [path for path in paths if path.suffix not in {".jsonl", ".parquet", ".png", ".gz"}]


def test_no_file_is_too_long() -> None:
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files(*PRODUCT)}
    assert len(lengths) > 5
    long = {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES and name not in LONGER_BY_DESIGN}
    assert long == {}


def test_no_function_is_too_long() -> None:
    long = {}
    for path in python_files(*PRODUCT):
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                name = f"{relative(path)}:{node.name}"
                if lines > MAX_FUNCTION_LINES and name not in LONGER_BY_DESIGN:
                    long[name] = lines
    assert long == {}


def test_every_exception_to_the_sizes_is_still_needed() -> None:
    assert [name for name in LONGER_BY_DESIGN if not (ROOT / name.split(":")[0]).is_file()] == []


def constants(tree: ast.Module) -> dict[str, float]:
    """Module-level names with one literal number, such as TOLERANCE = 1e-5."""
    return {
        target.id: float(node.value.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and type(node.value.value) in (int, float)
    }


def tolerances(tree: ast.Module) -> Iterator[tuple[int, float]]:
    """(line, value) of every tolerance that is a literal or a module-level constant."""
    named = constants(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        values = [keyword.value for keyword in node.keywords if keyword.arg in TOLERANCE_KEYWORDS]
        if isinstance(node.func, ast.Attribute) and node.func.attr == "approx":
            values += node.args[1:]
        for value in values:
            if isinstance(value, ast.Constant) and type(value.value) in (int, float):
                yield node.lineno, float(value.value)
            elif isinstance(value, ast.Name) and value.id in named:
                yield node.lineno, named[value.id]


def test_no_tolerance_is_so_wide_that_a_wrong_number_fits() -> None:
    wide = [
        f"{relative(path)}:{line} {value}"
        for path in python_files("tests")
        for line, value in tolerances(parse(path))
        if value > MAX_TOLERANCE
    ]
    assert wide == []


def test_the_tolerance_check_sees_what_it_should() -> None:
    tree = ast.parse("T = 0.5\nassert_close(a, b, rtol=0.1, atol=T)\npytest.approx(1.0, 0.2)\nf(abs=1e-6, rel=other)\n")
    assert sorted(tolerances(tree)) == [(2, 0.1), (2, 0.5), (3, 0.2), (4, 1e-6)]


def test_nothing_is_left_open() -> None:
    words = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error")) + r")\b")
    assert matches(words) == []


def test_no_registry_or_machine_is_named() -> None:
    """Where packages come from is the business of whoever installs; a path of one machine helps on no other."""
    hosts = ["pypi" + ".org", "python" + "hosted", "download." + "pytorch", "hugging" + "face.co", "docker" + ".io"]
    hosts += ["gh" + "cr.io", "quay" + ".io", "nvcr" + ".io", "registry.npm" + "js"]
    paths = ["/wo" + "rk/", "/tmp/" + "boot", "/opt/" + "wheels"]
    assert matches(re.compile("|".join(map(re.escape, hosts + paths)))) == []


def matches(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a binary file
        found += [
            f"{relative(path)}:{number} {match.group()}"
            for number, line in enumerate(text.splitlines(), start=1)
            if (match := pattern.search(line))
        ]
    return found


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_one_module_encodes_texts() -> None:
    """It holds the lock without which threads that share a tokenizer get each other's mode."""
    product = [path for path in project_files() if relative(path).startswith(("rlft_core/", "services/"))]
    found = [relative(path) for path in product if "tokenizer.encode(" in path.read_text(encoding="utf-8")]
    assert found == ["rlft_core/data/encode.py"]


@pytest.mark.parametrize("module", HOMES)
def test_ray_train_and_serve_stay_at_home(module: str) -> None:
    strangers = [
        relative(path)
        for path in python_files(*PRODUCT)
        if not relative(path).startswith(HOMES[module])
        and any(name == module or name.startswith(f"{module}.") for name in imported(parse(path)))
    ]
    assert strangers == []


def test_changelog_and_project_agree_on_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first is not None
    assert first.group(1) == version
