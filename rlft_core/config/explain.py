"""What pydantic found wrong with a recipe, said in the recipe's own words: dotted keys, values, and the way out.

Pydantic's error locations also hold the tags of unions (`stages, 1, ppo, rewards, 0, rules, ...`), which nobody wrote.
They are told from keys by following the location through the models. Reads no file and changes nothing.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_DISCRIMINATORS = ("type", "check", "kind", "source")
_KINDS = {"str": "text", "int": "a whole number", "float": "a number"}
_MOST_CHARS = 80
_MOST_KEYS = 12


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an error is: the keys a person wrote, the model that holds the last of them, what is expected there.

    `alternative` is the kind of plain union (text or number) that pydantic tried and reports on.
    """

    keys: tuple[str | int, ...]
    owner: type[BaseModel] | None
    annotation: Any
    alternative: str | None


def describe(error: ValidationError, model: type[BaseModel], content: Any) -> list[str]:
    """One line for each problem that `error` found in `content`, which should have been a `model`."""
    details = error.errors(include_url=False)
    places = [_place(detail["loc"], model) for detail in details]
    lines: dict[str, None] = {}
    for detail, place in zip(details, places, strict=True):
        if detail["type"] == "too_short" and any(_below(other, place) for other in places):
            continue  # items that are wrong were not counted; the list itself is not too short
        key = dotted(place.keys, content)
        if place.alternative is not None:
            kinds = [_kind(p.alternative) for p in places if p.keys == place.keys and p.alternative is not None]
            lines[f"{key}: must be {_either(list(dict.fromkeys(kinds)))} (got {_shown(detail['input'])})"] = None
        else:
            lines[_line(key, detail, place, content)] = None
    return list(lines)


def dotted(keys: Sequence[str | int], content: Any) -> str:
    """Keys as `--set` takes them: `stages.ppo.rewards.0.weight`, list items by name where that names one only."""
    parts: list[str] = []
    node = content
    for key in keys:
        labels = item_labels(node) if isinstance(node, list) else []
        if isinstance(key, int) and key < len(labels):
            label = labels[key]
            unique = bool(label) and labels.count(label) == 1 and not label.isdigit() and "." not in label
            parts.append(label if unique else str(key))
            node = node[key]
        else:
            parts.append(str(key))
            node = node.get(key) if isinstance(node, Mapping) else None
    return ".".join(parts)


def item_labels(items: Sequence[Any]) -> list[str]:
    """What each item of a list is called: its `name`, else its `type` or `check`, else nothing."""
    found = []
    for item in items:
        names = (item.get(key) for key in ("name", *_DISCRIMINATORS)) if isinstance(item, Mapping) else ()
        found.append(next((name for name in names if isinstance(name, str)), ""))
    return found


def _line(key: str, detail: ErrorDetails, place: _Place, content: Any) -> str:
    kind, context, value = detail["type"], detail.get("ctx", {}), _shown(detail["input"])
    if kind == "extra_forbidden":
        return f"{key}: unknown key; {_other_key(str(place.keys[-1]), place, content)}"
    if kind == "missing":
        return f"{key}: is missing and has no default.{_meaning(place)}"
    if kind == "union_tag_invalid":
        choices = _tags(place.annotation)
        discriminator = str(context["discriminator"]).strip("'")
        near = _nearest(str(context["tag"]), choices)
        return f"{key}.{discriminator}: there is no '{context['tag']}'{near}; choose from {', '.join(choices)}"
    if kind == "union_tag_not_found":
        discriminator = str(context["discriminator"]).strip("'")
        return f"{key}: needs `{discriminator}`, one of {', '.join(_tags(place.annotation))} (got {value})"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{key}: must hold keys of its own, written below it as `key: value` (got {value})"
    if kind == "value_error":
        said = detail["msg"].removeprefix("Value error, ")
        return f"{key}: {said}" if key else said
    said = detail["msg"].replace("Input should be", "must be", 1)
    if kind == "literal_error":
        said += _nearest(str(detail["input"]), _literals(place.annotation))
    if kind == "string_type" and isinstance(detail["input"], dict):
        said += "; YAML reads {...} as a mapping, so write text with braces in quotes"
    elif kind == "string_type" and not isinstance(detail["input"], list | None):
        said += "; write it in quotes if it is meant as text"
    return f"{key}: {said} (got {value})"


def _place(location: Sequence[str | int], model: type[BaseModel]) -> _Place:
    annotation: Any = model
    owner: type[BaseModel] | None = None
    keys: list[str | int] = []
    for part in location:
        choices = _choices(annotation)
        if len(choices) > 1:
            chosen = next((c for c in choices if _is_model(c) and _tag(c) == part), None)
            if chosen is None:  # a plain union: what follows speaks of one of its alternatives
                return _Place(tuple(keys), owner, annotation, str(part))
            annotation = chosen
            continue
        keys.append(part)
        owner, annotation = _step(choices[0] if choices else None, part)
    return _Place(tuple(keys), owner, annotation, None)


def _step(annotation: Any, part: str | int) -> tuple[type[BaseModel] | None, Any]:
    """The model that `part` is a key of, if it is one, and what is expected under `part`."""
    if _is_model(annotation):
        field = annotation.model_fields.get(str(part))
        return annotation, field.annotation if field else None
    arguments = get_args(annotation)
    if get_origin(annotation) is tuple and isinstance(part, int):
        return None, arguments[0] if arguments[-1] is Ellipsis else arguments[part]
    if get_origin(annotation) is dict:
        return None, arguments[1]
    return None, None


def _choices(annotation: Any) -> list[Any]:
    """The alternatives of a (nested) union without None; just the type itself when it is no union."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _choices(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [choice for argument in get_args(annotation) for choice in _choices(argument)]
    return [] if annotation is type(None) else [annotation]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _tag(model: type[BaseModel]) -> str | None:
    """The value of `type` or `check` that stands for this model."""
    fields = model.model_fields
    return next((str(fields[name].default) for name in _DISCRIMINATORS if name in fields), None)


def _tags(annotation: Any) -> list[str]:
    return [tag for choice in _choices(annotation) if _is_model(choice) and (tag := _tag(choice))]


def _literals(annotation: Any) -> list[str]:
    """The values of a `Literal`, also inside `tuple[...]`."""
    return [str(value) for choice in _choices(annotation) for value in get_args(choice) if isinstance(value, str)]


def _below(place: _Place, other: _Place) -> bool:
    return len(place.keys) > len(other.keys) and place.keys[: len(other.keys)] == other.keys


def _other_key(wrong: str, place: _Place, content: Any) -> str:
    """Which key was probably meant instead of an unknown one."""
    if place.owner is None:
        return "remove it"
    known = list(place.owner.model_fields)
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.7)
    if near:
        return f"did you mean '{near[0]}'?"
    inner = _find_below(wrong, place.owner)
    if inner:
        return f"it belongs to '{dotted((*place.keys[:-1], *inner), content)}'"
    shown = ", ".join(known[:_MOST_KEYS]) + (", ..." if len(known) > _MOST_KEYS else "")
    return f"the keys here are: {shown}"


def _find_below(key: str, model: type[BaseModel]) -> tuple[str, ...] | None:
    """Path to a field called `key` in the sections of `model`, the nearest first."""
    sections: list[tuple[tuple[str, ...], type[BaseModel]]] = [((), model)]
    while sections:
        path, section = sections.pop(0)
        if key in section.model_fields and path:
            return (*path, key)
        for name, field in section.model_fields.items():
            choices = _choices(field.annotation)
            if len(choices) == 1 and _is_model(choices[0]):
                sections.append(((*path, name), choices[0]))
    return None


def _meaning(place: _Place) -> str:
    field = place.owner.model_fields.get(str(place.keys[-1])) if place.owner else None
    return f" {field.description}" if field and field.description else ""


def _nearest(wrong: str, choices: Sequence[str]) -> str:
    near = difflib.get_close_matches(wrong, choices, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def _kind(alternative: str | None) -> str:
    return _KINDS.get(alternative or "", "a list of text")


def _either(kinds: Sequence[str]) -> str:
    return kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} or {kinds[-1]}"


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _MOST_CHARS else shown[: _MOST_CHARS - 1] + "…"
