"""What travels to the cluster with a job: the recipe, the files that it names, the modules beside it. No data folder, no runs.

A folder is made in which the paths are those of the folder that rlft is started in, so that the recipe needs no change.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlft_core.config import Recipe
from rlft_core.errors import ConfigError

MOST_BYTES = 64 << 20
RECIPE = "recipe.yaml"
_LEFT_OUT = {"runs", "node_modules", "__pycache__", "site-packages", "build", "dist"}
_MOST_MODULES = 2000


def pack(recipe_file: Path, recipe: Recipe, base_dir: Path, into: Path) -> list[str]:
    """Copy what a job needs into a folder; returns the paths inside it. Raises ConfigError for what cannot travel."""
    named = sorted(set(_named_files(recipe, base_dir)))
    modules = sorted(set(_modules(base_dir)))
    total = sum((base_dir / name).stat().st_size for name in {*named, *modules})
    if total > MOST_BYTES:
        largest = max((*named, *modules), key=lambda name: (base_dir / name).stat().st_size)
        raise ConfigError(
            f"the files that go with the job have {total >> 20} MiB, more than {MOST_BYTES >> 20}; the largest is {largest}. Put "
            "data where all nodes of the cluster can read it, and name it in the recipe by its absolute path"
        )
    for name in {*named, *modules}:
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(base_dir / name, target)
    shutil.copy2(recipe_file, into / RECIPE)
    return sorted({*named, *modules, RECIPE})


def _named_files(recipe: Recipe, base_dir: Path) -> Iterator[str]:
    """Relative paths in the recipe that are files here. Raises ConfigError for folders, which only this machine has."""
    for key, value in _texts(recipe.model_dump(mode="json"), ""):
        path = base_dir / value
        if len(value) > 4096 or "\n" in value or Path(value).is_absolute() or not value.strip(". /"):
            continue
        if path.is_file():
            if not path.resolve().is_relative_to(base_dir.resolve()):
                raise ConfigError(
                    f"{key}: {value} lies outside the folder that rlft is started in, so it cannot go with the job; start rlft "
                    "further up, or give an absolute path that all nodes of the cluster can read"
                )
            yield str(Path(value))
        elif path.is_dir() and _is_model(path):
            raise ConfigError(
                f"{key}: {value} is a model's folder on this machine, which does not go with the job; put it where all nodes of "
                "the cluster can read it, and give its absolute path"
            )


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file()


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every text in a resolved recipe, with its dotted key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{key}[{index}]")


def _modules(base_dir: Path) -> Iterator[str]:
    """Python files below the folder: rewards and negatives of the user. Hidden folders and environments are passed over."""
    found = 0
    folders = [base_dir]
    while folders:
        folder = folders.pop()
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or path.is_symlink() or path.name in _LEFT_OUT:
                continue
            if path.is_dir():
                if not (path / "pyvenv.cfg").exists():
                    folders.append(path)
            elif path.suffix == ".py":
                found += 1
                if found > _MOST_MODULES:
                    raise ConfigError(
                        f"{base_dir} holds more than {_MOST_MODULES} Python files; start rlft in the folder of the recipe"
                    )
                yield str(path.relative_to(base_dir))
