"""From a YAML file and `--set a.b=c` overrides to a checked Recipe, with errors a person can act on."""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rlft_core.config.explain import describe, item_labels
from rlft_core.config.recipe import Recipe
from rlft_core.errors import ConfigError

_MERGE_TAG = "tag:yaml.org,2002:merge"


class _UniqueKeys(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error instead of a silent overwrite, and 5e-5 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: list[Any] = []
        for key_node, _ in node.value:
            if key_node.tag == _MERGE_TAG:
                continue
            key = self.construct_object(key_node, deep=deep)
            if key in keys:
                raise ConfigError(f"line {key_node.start_mark.line + 1}: '{key}' is given twice; keep one of them")
            keys.append(key)
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 reads 5e-5 as text, because it has no point.
_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe. Raises ConfigError naming the file, the dotted keys, their values and the way out."""
    return parse_recipe(read_yaml(path), overrides, source=str(path))


def named(overrides: Sequence[str], name: str | None) -> list[str]:
    """The overrides, with the run's name if one is given. JSON is YAML: quoted, a name such as 2024 stays text."""
    return [*overrides, *([f"name={json.dumps(name)}"] if name is not None else [])]


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError when there is none."""
    if not path.is_file():
        raise ConfigError(_why_no_file(path))
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader subclass
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    except OSError as error:
        raise ConfigError(f"recipe {path} cannot be read: {error.strerror}") from error
    if not isinstance(content, dict):
        found = "it is empty" if content is None else f"not {type(content).__name__}"
        raise ConfigError(f"{path} must hold keys such as `data:` and `stages:`; {found}")
    return content


def parse_recipe(content: dict[str, Any], overrides: Sequence[str] = (), *, source: str = "recipe") -> Recipe:
    """Check a mapping with overrides applied to a copy of it. Raises ConfigError listing every problem found."""
    content = copy.deepcopy(content)
    for override in overrides:
        apply_override(content, override)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        lines = [f"  {line}" for line in describe(error, Recipe, content)]
        problems = "a problem" if len(lines) == 1 else f"{len(lines)} problems"
        raise ConfigError(f"{source} has {problems}:\n" + "\n".join(lines)) from None


def apply_override(content: dict[str, Any], override: str) -> None:
    """Apply `a.b=c` to a mapping in place. A list is entered by index or by the `name`/`type` of its item.

    The value is read as YAML: `--set stages.ppo.num_steps=20`, `--set tracking.sinks=[wandb]`.
    """
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: write it as a.b=value")
    try:
        value = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader subclass
    except (yaml.YAMLError, ConfigError) as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML: {error}") from error
    node: Any = content
    for depth, part in enumerate(parts[:-1]):
        node = _enter(node, part, ".".join(parts[: depth + 1]), override)
    if isinstance(node, list):
        node[_index(node, parts[-1], key, override)] = value
    else:
        node[parts[-1]] = value


def _enter(node: Any, part: str, dotted: str, override: str) -> Any:
    if isinstance(node, list):
        index = _index(node, part, dotted, override)
        if not isinstance(node[index], dict | list):
            raise ConfigError(f"--set {override}: {dotted} is {node[index]!r}, which has no keys of its own")
        return node[index]
    if node.get(part) is None:
        node[part] = {}
    if not isinstance(node[part], dict | list):
        raise ConfigError(f"--set {override}: {dotted} is {node[part]!r}, which has no keys of its own")
    return node[part]


def _index(items: list[Any], part: str, dotted: str, override: str) -> int:
    if part.isdigit() and int(part) < len(items):
        return int(part)
    labels = item_labels(items)
    if part not in labels:
        there = ", ".join(label or str(index) for index, label in enumerate(labels)) or "none"
        raise ConfigError(f"--set {override}: {dotted} names no item; there are: {there}")
    if labels.count(part) > 1:
        raise ConfigError(f"--set {override}: {dotted} names {labels.count(part)} items; use an index from 0 instead")
    return labels.index(part)


def _why_no_file(path: Path) -> str:
    inside = path if path.is_dir() else path.parent
    names = sorted(p.name for p in inside.glob("*.y*ml")) if inside.is_dir() else []
    if path.is_dir():
        return f"recipe {path} is a folder; give a file" + (f" such as {path / names[0]}" if names else "")
    near = difflib.get_close_matches(path.name, names, n=1)
    if near:
        return f"recipe {path} does not exist; did you mean {path.parent / near[0]}?"
    there = f"that folder has {', '.join(names)}" if names else "check the path (it is relative to the current folder)"
    return f"recipe {path} does not exist; {there}"
