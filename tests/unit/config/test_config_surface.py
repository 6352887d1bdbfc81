"""The keys of a recipe are a promise to its users: this test fails when one appears, changes its place or goes."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from rlft_core.config.recipe import Recipe

LISTING = Path(__file__).with_name("recipe_keys.txt")


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated, tuple, dict):
        return [model for argument in get_args(annotation) for model in models_in(argument)]
    return []


def keys_of(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        inner = models_in(field.annotation)
        if not inner:
            keys.append(prefix + name)
        for section in inner:
            tag = next(
                (
                    section.model_fields[k].default
                    for k in ("type", "check", "kind", "source")
                    if k in section.model_fields
                ),
                None,
            )
            keys += keys_of(section, f"{prefix}{name}{f'[{tag}]' if tag else ''}.")
    return keys


def test_the_keys_of_a_recipe_are_the_ones_in_the_listing() -> None:
    found = keys_of(Recipe)
    assert len(found) > 150
    assert "stages[ppo].rewards[rules].checks[all_of].checks[words].min" in found
    listed = LISTING.read_text(encoding="utf-8").split()
    assert sorted(set(found) - set(listed)) == [], f"new keys: write them in {LISTING.name}, the docs and the changelog"
    assert sorted(set(listed) - set(found)) == [], "keys that recipes may use are gone"


def test_every_key_is_explained() -> None:
    seen: set[type[BaseModel]] = set()
    queue: list[type[BaseModel]] = [Recipe]
    silent = []
    while queue:
        model = queue.pop()
        if model in seen:
            continue
        seen.add(model)
        for name, field in model.model_fields.items():
            queue += models_in(field.annotation)
            if not field.description and name not in ("type", "kind"):
                silent.append(f"{model.__name__}.{name}")
    assert len(seen) > 30
    assert silent == []
