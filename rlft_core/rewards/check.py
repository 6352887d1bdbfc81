"""What can be known of a recipe's rewards before anything starts. Imports users' functions, but no torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from rlft_core.config.rewards import (
    REWARD_FACTS,
    BertScoreConfig,
    CustomConfig,
    EmbeddingSimilarityConfig,
    RewardConfig,
    RewardModelConfig,
)
from rlft_core.errors import ConfigError, DataError, ModelError
from rlft_core.models.default_model import DEFAULT_MODEL, embedding_model_dir, resolve_model
from rlft_core.rewards.custom import load_function
from rlft_core.types import Row


def check_rewards(configs: Sequence[RewardConfig], *, fields: Collection[str] | None = None) -> None:
    """Import users' functions, look for embedding models, and compare with the data's columns where given.

    Raises:
        ConfigError: a function is missing or cannot be called so, or a reward reads a column that `fields` lacks.
        ModelError: an embedding model's folder is missing or unsafe, or a folder is no reward model of rlft's.
    """
    for config in configs:
        if isinstance(config, CustomConfig):
            load_function(config)
        if isinstance(config, EmbeddingSimilarityConfig | BertScoreConfig):
            embedding_model_dir() if config.model == DEFAULT_MODEL else resolve_model(config.model)
        if isinstance(config, RewardModelConfig) and config.model is not None:
            _check_reward_model(config.label, Path(config.model))
        missing = sorted(config.fields_needed - set(fields)) if fields is not None else []
        if missing:
            raise ConfigError(
                f"reward '{config.label}' reads the column '{missing[0]}', which the data lacks. "
                f"Its columns: {', '.join(sorted(fields or ())) or 'none'}."
            )


def _check_reward_model(label: str, folder: Path) -> None:
    """It must be one that a stage has written: the file beside the weights says how texts are to be put to it."""
    if not (folder / REWARD_FACTS).is_file():
        raise ModelError(
            f"reward '{label}': {folder} is no reward model of rlft's, it has no {REWARD_FACTS}. Give the folder `model` of a "
            "stage of type reward_model, or leave `model` out to use the recipe's own"
        )


def check_references(configs: Sequence[RewardConfig], rows: Sequence[Row]) -> None:
    """Every row has an output, where a reward compares with it. DataError naming the first row without."""
    wanting = [config.label for config in configs if config.needs_reference]
    empty = next((row for row in rows if not row.output.strip()), None)
    if wanting and empty is not None:
        raise DataError(
            f"row '{empty.id}' has an empty output, and reward '{wanting[0]}' compares with it. "
            "Fill it in, leave the row out, or take a reward without a reference."
        )
