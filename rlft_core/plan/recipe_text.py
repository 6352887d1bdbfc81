"""Settings with reasons, as YAML that a person enjoys reading.

Knows how a line looks, not what stands in it. Every setting is written in one line with its reason behind it, or above
it where the line would be too long; a suggestion is a setting that is commented out.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

_WIDTH = 120
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./ -]*[A-Za-z0-9_]|[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Remark:
    """Lines of comment. One that begins with a space keeps its own lines."""

    text: str


@dataclass(frozen=True, slots=True)
class Setting:
    """`key: value # why`; `active=False` is a suggestion, `anchor` a name under which other settings repeat the value."""

    key: str
    value: Any
    why: str = ""
    active: bool = True
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Alias:
    """A value that stands elsewhere under this anchor."""

    anchor: str


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a list."""

    value: Any
    why: str = ""
    active: bool = True


@dataclass(frozen=True, slots=True)
class Block:
    """`key:` with settings, or the items of a list, below it."""

    key: str
    inside: tuple[Node, ...]
    anchor: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """An item of `stages` with what it is for above it."""

    purpose: str
    settings: tuple[Node, ...]


Node = Remark | Setting | Item | Block | Stage
BLANK = Remark("")


def recipe_text(nodes: Sequence[Node]) -> str:
    """The text of a recipe."""
    return "\n".join(_lines(nodes, indent=0)) + "\n"


def scalar(value: Any) -> str:
    """A single value as YAML. Text stays bare where that is safe."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return re.sub(r"e-0*", "e-", f"{value:.1e}") if 0 < abs(value) < 0.001 else f"{value:g}"
    if not isinstance(value, str):
        return str(value)
    if _PLAIN.fullmatch(value) and yaml.safe_load(value) == value:
        return value
    return yaml.safe_dump(value, default_style='"', allow_unicode=True, width=1 << 20).strip()


def _flow(value: Any) -> str:
    if isinstance(value, Alias):
        return f"*{value.anchor}"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{scalar(key)}: {_flow(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    # Inside { } a bare comma or bracket would end the value; _PLAIN lets neither through.
    return scalar(value)


def _lines(nodes: Sequence[Node], *, indent: int) -> list[str]:
    lines: list[str] = []
    for node in nodes:
        if isinstance(node, Remark):
            lines += _comment(node.text, indent) if node.text else [""]
        elif isinstance(node, Block):
            lines.append(" " * indent + f"{node.key}:" + (f" &{node.anchor}" if node.anchor else ""))
            lines += _lines(node.inside, indent=indent + 2)
        elif isinstance(node, Stage):
            lines += _stage(node, indent)
        else:
            lines += _line(node, indent)
    return lines


def _stage(stage: Stage, indent: int) -> list[str]:
    inside = _lines(stage.settings, indent=indent + 2)
    first = next(index for index, line in enumerate(inside) if not line.lstrip().startswith("#"))
    inside[first] = " " * indent + "- " + inside[first].lstrip()
    return [*_comment(stage.purpose, indent), *inside]


def _line(node: Setting | Item, indent: int) -> list[str]:
    key = "- " if isinstance(node, Item) else f"{node.key}: "
    anchor = f"&{node.anchor} " if isinstance(node, Setting) and node.anchor else ""
    line = " " * indent + ("" if node.active else "# ") + key + anchor + _flow(node.value)
    if not node.why:
        return [line]
    whole = f"{line} # {_printable(node.why)}"
    return [whole] if len(whole) <= _WIDTH else [*_comment(node.why, indent), line]


def _comment(text: str, indent: int) -> list[str]:
    start = " " * indent + "# "
    if text.startswith(" "):
        return [" " * indent + "#" + _printable(text)]
    # A path or a command must not be torn at its hyphens.
    return textwrap.wrap(
        " ".join(_printable(text).split()),
        _WIDTH,
        initial_indent=start,
        subsequent_indent=start + ("  " if text.startswith("- ") else ""),
        break_on_hyphens=False,
        break_long_words=False,
    )


def _printable(text: str) -> str:
    """Column names and the like come from files: YAML takes no control characters, not even in a comment."""
    return "".join(character if character.isprintable() else " " for character in text)
