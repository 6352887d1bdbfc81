"""Prompt templates: text with `{field}` placeholders that are filled from a row.

Filling is one pass over the template, so braces inside a value are only text. There are no conditions, loops or
format codes: whoever needs those prepares a column with the finished prompt.
"""

from __future__ import annotations

import difflib
import re

from rlft_core.errors import ConfigError, DataError
from rlft_core.types import Row

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_COLUMN = "column."


def render(template: str, row: Row) -> str:
    """`template` with each `{field}` replaced by that column of `row`; `{{` and `}}` give single braces.

    `{input}` and `{output}` are the row's own input and output. `{column.input}` is the column of that name, for data
    that has a column called "input" which is something else.

    Raises:
        ConfigError: a brace that belongs to no placeholder, or an ambiguous name.
        DataError: a placeholder that the row has no field for, or whose value is neither text nor number.
    """

    def fill(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        return _as_text(_lookup(_name(match, template), row), match[0], row)

    return _PIECE.sub(fill, template)


def placeholders(template: str) -> tuple[str, ...]:
    """The names in `template`, each once, in order. Lets a recipe be checked before any row is read.

    Raises:
        ConfigError: a brace that belongs to no placeholder.
    """
    matches = (match for match in _PIECE.finditer(template) if match[0] not in ("{{", "}}"))
    return tuple(dict.fromkeys(_name(match, template) for match in matches))


def _name(match: re.Match[str], template: str) -> str:
    name = match[1]
    if not name:
        at = match.start()
        near = template[max(at - 15, 0) : at + 15].replace("\n", " ")
        raise ConfigError(
            f"The template has a '{match[0]}' without a field name, near '{near}'. Write {{field}} for a value, "
            "{{ or }} for a brace."
        )
    return name


def _lookup(name: str, row: Row) -> object:
    own = {"input": row.input, "output": row.output}
    if name in own:
        if name in row.fields and row.fields[name] != own[name]:
            raise ConfigError(
                f"{{{name}}} in the template can mean two things: the row's {name}, or the data's column '{name}', "
                f"which differs (row {row.id}). Write {{{_COLUMN}{name}}} for the column, or name the field that holds "
                f"the row's {name}."
            )
        return own[name]
    if name in row.fields:
        return row.fields[name]
    column = name.removeprefix(_COLUMN)
    if column != name and column in row.fields:
        return row.fields[column]
    known = sorted({*row.fields, *own})
    near = difflib.get_close_matches(name.strip().lower(), known, n=1)
    meant = f" Did you mean {{{near[0]}}}?" if near else ""
    raise DataError(
        f"The template asks for {{{name}}}, which row {row.id} does not have; it has "
        f"{', '.join('{' + field + '}' for field in known)}.{meant} For a brace as text, write {{{{ or }}}}."
    )


def _as_text(value: object, placeholder: str, row: Row) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    found = "null" if value is None else type(value).__name__
    raise DataError(
        f"The template's {placeholder} is {found} in row {row.id}; only text and numbers can be filled in. "
        "Fill the column with text, or take the placeholder out."
    )
