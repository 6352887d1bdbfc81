"""Which model folder `RUN[:STAGE][@STEP]` means. Names are looked up in one folder of runs and can mean nothing outside it.

    last-mile            the last stage of the run that tuned a model
    last-mile:sft        another stage, or a reward model
    last-mile:ppo@40     what the stage had learned by step 40, from its checkpoint

Only what was written completely is found: a folder whose manifest does not agree with its files is never served. What was
trained as an adapter is found as one, unless it is wanted merged.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from rlft_core.checkpoints.adapter import ADAPTER, facts_of, is_adapter
from rlft_core.checkpoints.export import is_model
from rlft_core.checkpoints.folder import is_complete, step_of, steps
from rlft_core.config.recipe import PolicyStage, Recipe
from rlft_core.config.rewards import REWARD_FACTS
from rlft_core.config.stages import RewardModelStage
from rlft_core.errors import CheckpointError, ConfigError, ModelError
from rlft_core.serving.steps import export_adapter, export_step, start_of_stage
from rlft_core.serving.types import Checkpoint, Kind, Spec

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_SPEC = re.compile(rf"(?P<run>{_NAME})(?::(?P<stage>{_NAME}))?(?:@(?P<step>[0-9]{{1,9}}))?")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}")


def parse_spec(text: str) -> Spec:
    """Raises ConfigError for what is no RUN[:STAGE][@STEP]; names are names of folders, never paths."""
    match = _SPEC.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{text!r} is no RUN[:STAGE][@STEP], such as last-mile, last-mile:sft or last-mile:ppo@40. Names have letters, "
            "digits, '.', '_' and '-' and are looked up in --runs-dir; they are not paths"
        )
    return Spec(match["run"], match["stage"], None if match["step"] is None else int(match["step"]))


def check_model_name(name: str) -> str:
    """The name by which clients ask for a model. Raises ConfigError."""
    if _MODEL_NAME.fullmatch(name) is None or ".." in name:
        raise ConfigError(f"a model's name has letters, digits and . _ : @ / -, 128 at most; this is {name!r}")
    return name


def find_checkpoint(spec: Spec, runs_dir: Path, exports_dir: Path, *, merged: bool = False) -> Checkpoint:
    """The folder that is meant. A step's weights are put together in `exports_dir`, once. `merged`: no adapter, whole weights.

    Raises ConfigError for a run, stage or step that is not there, and CheckpointError for one that is not complete.
    """
    folder = runs_dir / spec.run
    resolved = folder / "recipe.resolved.json"
    if not resolved.is_file():
        raise ConfigError(f"there is no run '{spec.run}' in {runs_dir}; there are: {_listed(_runs(runs_dir))}")
    recipe = Recipe.model_validate(json.loads(resolved.read_text(encoding="utf-8")))
    stage = _stage(spec, recipe, folder)
    kind: Kind = "reward" if isinstance(recipe.stage(stage), RewardModelStage) else "policy"
    label = f"{spec.run}:{stage}" + ("" if spec.step is None else f"@{spec.step}")
    home = folder / "stages" / stage
    as_adapter = kind == "policy" and recipe.model.lora is not None and not merged
    if spec.step is None:
        model = home / "model"
    else:
        model = _of_step(spec, recipe, stage, folder, exports_dir, as_adapter=as_adapter)
    if not is_model(model):
        told = "was not written completely, or has changed since" if model.is_dir() else "is not there yet"
        raise CheckpointError(f"{label}: the model {model} {told}; it is not served. Run the recipe to its end")
    if kind == "reward" and not (model / REWARD_FACTS).is_file():
        raise CheckpointError(f"{label}: {model} has no {REWARD_FACTS}, so its scores mean nothing; train it again")
    options, prompt = recipe.model, recipe.data.prompt
    adapter, base, rank = _adapter(model, recipe, stage, folder) if as_adapter else (None, "", 0)
    return Checkpoint(
        label=label,
        folder=str((adapter or model).absolute()),
        kind=kind,
        max_length=options.max_length,
        dtype=options.dtype,
        trust_remote_code=options.trust_remote_code,
        system=prompt.system,
        template=prompt.template,
        base=base,
        rank=rank,
    )


def _adapter(model: Path, recipe: Recipe, stage: str, folder: Path) -> tuple[Path | None, str, int]:
    """The adapter's folder, its base and its rank; no folder where only merged weights are there, or the base is not."""
    adapter = model if is_adapter(model) else model / ADAPTER
    if not is_adapter(adapter):
        return None, "", 0
    written, rank = facts_of(adapter)
    try:
        start = start_of_stage(recipe, stage, written, folder)
        base = str(start.absolute()) if start is not None else _hub_id(recipe, written)
    except ModelError:  # the recipe names a folder that is gone
        base = ""
    if base:
        return adapter, base, rank
    if adapter == model:
        raise CheckpointError(f"{adapter} is an adapter of {written}, which is not there any more")
    return None, "", 0  # the merged weights are whole without the base


def _hub_id(recipe: Recipe, written: str) -> str:
    """A base that is no folder is one that the engine finds as the run did."""
    return written if written == recipe.model.name else ""


def _stage(spec: Spec, recipe: Recipe, folder: Path) -> str:
    """The stage that is meant: the one named, else the last policy that has a model, or a checkpoint of the step."""
    policies = [stage.name for stage in recipe.stages if isinstance(stage, PolicyStage)]
    models = [*policies, *(stage.name for stage in recipe.stages if isinstance(stage, RewardModelStage))]
    if spec.stage is not None:
        if spec.stage not in models:
            raise ConfigError(
                f"run '{spec.run}' has no stage '{spec.stage}' that makes a model; there are: {_listed(models)}"
            )
        return spec.stage
    wanted = "checkpoints" if spec.step is not None else "model"
    found = [name for name in policies if (folder / "stages" / name / wanted).is_dir()]
    if not found:
        raise ConfigError(f"run '{spec.run}' has no tuned model yet; its stages that make one: {_listed(policies)}")
    return found[-1]


def _of_step(spec: Spec, recipe: Recipe, stage: str, folder: Path, exports_dir: Path, *, as_adapter: bool) -> Path:
    config, home = recipe.stage(stage), folder / "stages" / stage
    if isinstance(config, RewardModelStage):
        raise ConfigError(
            f"{spec.run}:{stage}@{spec.step}: a reward model's scale is known at its end only; leave out @{spec.step}"
        )
    checkpoints = {step_of(path): path for path in steps(home / "checkpoints")}
    if spec.step in checkpoints:
        if not is_complete(checkpoints[spec.step]):
            raise CheckpointError(
                f"{spec.run}:{stage}@{spec.step}: this checkpoint was not written completely; it is not served"
            )
        export = export_adapter if as_adapter else export_step
        return export(recipe, stage, checkpoints[spec.step], folder, exports_dir / spec.run / stage)
    assert isinstance(config, PolicyStage)
    # The last step's result is the model itself, unless an earlier one was better.
    if spec.step == config.num_steps and is_model(home / "model") and not (home / "best").is_dir():
        return home / "model"
    there = [str(number) for number, path in sorted(checkpoints.items()) if is_complete(path)]
    raise ConfigError(
        f"{spec.run}:{stage} has no checkpoint of step {spec.step}; there are: {_listed(there)}, and its result without @"
    )


def _runs(runs_dir: Path) -> list[str]:
    return sorted(path.parent.name for path in runs_dir.glob("*/recipe.resolved.json"))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:20]) or "none"
