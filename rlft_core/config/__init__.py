"""Configuration: strict pydantic models, one file per section. Imports no torch."""

from rlft_core.config.load import load_recipe, parse_recipe
from rlft_core.config.recipe import Recipe

__all__ = ["Recipe", "load_recipe", "parse_recipe"]
