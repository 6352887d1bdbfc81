"""The model a recipe names: found, measured, and compared with what the recipe asks of it. Loads no weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlft_core.config.online import OnlineStage
from rlft_core.config.recipe import Recipe
from rlft_core.config.stages import EvaluateStage
from rlft_core.errors import ConfigError, ModelError
from rlft_core.models.cache import MANIFEST, cache_root
from rlft_core.models.default_model import DEFAULT_MODEL, DEFAULT_MODEL_NAME, resolve_model
from rlft_core.models.size import ModelSize, model_size

VALUE_BYTES = {"auto": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A resolved model. `folder` and `size` are None for one whose files are not on this machine (yet)."""

    name: str
    folder: Path | None
    size: ModelSize | None
    note: str | None


def find_model(recipe: Recipe, *, convert: bool) -> FoundModel:
    """Resolve `model.name`. `convert` allows the bundled model's one conversion, which takes about 25 s.

    Raises:
        ModelError: as `resolve_model`, naming the key.
    """
    name = recipe.model.name
    cached = (cache_root() / "models" / DEFAULT_MODEL_NAME / MANIFEST).is_file()
    if name == DEFAULT_MODEL and not convert and not cached:
        note = (
            "the bundled model is not converted yet (the first run does that, once, in about 25 s): its size is "
            "not known"
        )
        return FoundModel(DEFAULT_MODEL_NAME, None, None, note)
    try:
        resolved = resolve_model(name, trust_remote_code=recipe.model.trust_remote_code)
        folder = resolved if isinstance(resolved, Path) else _hub_cache(resolved)
        size = model_size(folder) if folder is not None else None
    except ModelError as error:
        raise ModelError(f"model.name: {error}") from error
    shown = DEFAULT_MODEL_NAME if name == DEFAULT_MODEL else name
    if size is None or folder is None:
        note = f"{name} is not on this machine: its size, context and prompt lengths are checked when it is loaded"
        return FoundModel(shown, None, None, note)
    return FoundModel(shown, folder, size, None)


def check_fits(recipe: Recipe, size: ModelSize, *, num_gpus: int) -> None:
    """Compare the recipe with the model's own numbers.

    Raises:
        ConfigError: naming the key, both numbers and the way out.
    """
    longest = recipe.model.max_length
    if size.context is not None and longest > size.context:
        raise ConfigError(
            f"model.max_length is {longest}, but the context of {recipe.model.name} has {size.context} tokens; "
            f"lower model.max_length to {size.context} or less, or take another model"
        )
    _check_adapter(recipe, size)
    for stage in recipe.stages:
        where = f"stages.{stage.name}"
        if not isinstance(stage, EvaluateStage):
            freeze = stage.learner.freeze
            if freeze.bottom_layers > size.num_layers:
                raise ConfigError(
                    f"{where}.learner.freeze.bottom_layers is {freeze.bottom_layers}, but {recipe.model.name} has "
                    f"{size.num_layers} layers; use at most {size.num_layers}"
                )
            if (
                size.trainable(freeze_embeddings=freeze.embeddings, bottom_layers=freeze.bottom_layers)
                <= size.hidden_size
            ):
                raise ConfigError(f"{where}.learner.freeze leaves nothing to train; freeze fewer layers")
        if isinstance(stage, OnlineStage | EvaluateStage) and stage.rollout.engine == "vllm":
            _check_engine(where, recipe, stage, size, on_gpu=num_gpus > 0)


def _check_engine(
    where: str, recipe: Recipe, stage: OnlineStage | EvaluateStage, size: ModelSize, *, on_gpu: bool
) -> None:
    rollout = stage.rollout
    if size.num_heads % rollout.tensor_parallel:
        raise ConfigError(
            f"{where}.rollout.tensor_parallel is {rollout.tensor_parallel}, but {recipe.model.name} has "
            f"{size.num_heads} attention heads, which do not divide by it; use a divisor"
        )
    per_token = size.kv_values_per_token * VALUE_BYTES[recipe.model.dtype]
    one_sequence_mb = -(-per_token * recipe.model.max_length // 1024**2)
    if not on_gpu and rollout.kv_cache_mb < one_sequence_mb:
        raise ConfigError(
            f"{where}.rollout.kv_cache_mb is {rollout.kv_cache_mb}, but one sequence of model.max_length "
            f"({recipe.model.max_length}) tokens takes {one_sequence_mb} MiB; raise the first or lower the second"
        )


def _check_adapter(recipe: Recipe, size: ModelSize) -> None:
    lora = recipe.model.lora
    if lora is None or isinstance(lora.target_modules, str):
        return
    missing = [name for name in lora.target_modules if name.split(".")[-1] not in size.matrix_names]
    if missing:
        raise ConfigError(
            f"model.lora.target_modules: {recipe.model.name} has no matrix '{missing[0]}'; its layers have "
            f"{', '.join(sorted(size.matrix_names))}"
        )


def _hub_cache(name: str) -> Path | None:
    """Where a hub model's files lie when they were downloaded before. Looks at the disk only."""
    from huggingface_hub import try_to_load_from_cache  # half a second that only hub ids need

    found = try_to_load_from_cache(name, "config.json")
    folder = Path(found).parent if isinstance(found, str) else None
    return folder if folder is not None and any(folder.glob("*.safetensors")) else None
