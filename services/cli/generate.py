"""`rlft generate`: answers of a run's model, the best of several by its own judgement."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rlft_core.config.recipe import PolicyStage, Recipe
from rlft_core.config.rewards import REWARD_FACTS
from rlft_core.config.rollout import RolloutConfig
from rlft_core.config.stages import BASE
from rlft_core.data import render
from rlft_core.data.prepare import rows_of
from rlft_core.errors import ConfigError, DataError
from rlft_core.judging.causal_lm import DEFAULT_TEMPLATE
from rlft_core.judging.template import load_template
from rlft_core.models.default_model import resolve_model
from rlft_core.types import Row
from services.cli.compare import no_run
from services.cluster.session import session
from services.pipeline.context import engine_needs
from services.pipeline.generate import Asked, Generated, generate
from services.rollout.engine import Sampling
from services.rollout.judging import TOURNAMENT


@dataclass(frozen=True, slots=True)
class Options:
    """What a person asked for."""

    inputs: Sequence[str]
    best_of: int
    by: str
    template: str | None
    temperature: float | None
    max_tokens: int
    rows: int
    seed: int
    out: Path | None


def generate_answers(folder: Path, stage: str | None, options: Options, base_dir: Path) -> None:
    """Print an answer for each input, or for the first test rows, and write them to `out`.

    Raises ConfigError, DataError, ModelError, JudgeError or EngineError.
    """
    resolved = folder / "recipe.resolved.json"
    if not resolved.is_file():
        raise no_run(folder)
    recipe = Recipe.model_validate(json.loads(resolved.read_text(encoding="utf-8")))
    model = model_of(recipe, folder, stage)
    rows = rows_to_answer(recipe, options, base_dir)
    chosen_by = reward_model_of(folder, options.by) if options.by != TOURNAMENT else None
    template = None
    if options.best_of > 1 and chosen_by is None:
        template = load_template(options.template or template_of(recipe, stage), base_dir=base_dir)
    temperature = options.temperature if options.temperature is not None else float(options.best_of > 1)
    if options.best_of > 1 and temperature == 0:
        raise ConfigError("--temperature 0 gives the same answer every time, so there is no best of several; raise it")
    sampling = Sampling(temperature, options.max_tokens)
    asked = Asked(sampling, options.best_of, options.seed, template, reward_model=chosen_by)
    rollout = RolloutConfig()
    size = sum(file.stat().st_size for file in Path(model).glob("*.safetensors")) if Path(model).is_dir() else 0
    console = Console()
    with session(recipe.cluster, engine_needs(rollout, gpus_there=0), model_bytes=size):
        found = asyncio.run(
            generate(
                recipe,
                model,
                rows,
                asked,
                rollout=rollout,
                notice=lambda line: console.print(Text(line), style="yellow"),
            )
        )
    show(found, console)
    if options.out is not None:
        lines = [{"id": g.row.id, "input": g.row.input, "output": g.text, "ended": g.ended} for g in found]
        options.out.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def template_of(recipe: Recipe, stage: str | None) -> str:
    """How the model of a stage, by default the last policy's, learned to judge."""
    policies = [other.name for other in recipe.stages if isinstance(other, PolicyStage)]
    taught = recipe.taught_to_judge(stage or (policies[-1] if policies else BASE))
    return DEFAULT_TEMPLATE if taught is None else taught.template


def model_of(recipe: Recipe, folder: Path, stage: str | None) -> str:
    """The folder of a stage's model, by default the last policy's. Raises ConfigError."""
    policies = [other.name for other in recipe.stages if isinstance(other, PolicyStage)]
    if stage == BASE:
        return str(resolve_model(recipe.model.name, trust_remote_code=recipe.model.trust_remote_code))
    chosen = stage or (policies[-1] if policies else BASE)
    if chosen not in policies:
        there = ", ".join((*policies, BASE))
        raise ConfigError(f"{folder.name} has no stage '{chosen}' that tunes a model; there are: {there}")
    model = folder / "stages" / chosen / "model"
    if not model.is_dir():
        raise ConfigError(f"{folder.name}: stage '{chosen}' has no model yet; run the recipe to its end")
    return str(model.absolute())


def reward_model_of(folder: Path, by: str) -> str:
    """The folder of a reward model: a stage of the run, or a folder by itself. Raises ConfigError."""
    there = [folder / "stages" / by / "model", Path(by)]
    for place in there:
        if (place / REWARD_FACTS).is_file():
            return str(place.absolute())
    raise ConfigError(
        f"--by {by}: it is neither '{TOURNAMENT}' nor a reward-model stage of {folder.name} that has a model, nor a folder of one"
    )


def rows_to_answer(recipe: Recipe, options: Options, base_dir: Path) -> list[Row]:
    """The inputs as rows, or the first test rows. Raises DataError when the prompt needs more than an input."""
    if not options.inputs:
        tested = list(rows_of(recipe.data, base_dir, recipe.seed).test[: options.rows])
        if not tested:
            raise DataError("the recipe has no test rows to answer; give an --input")
        return tested
    rows = [
        Row(str(number), text, "", {recipe.data.input_field: text})
        for number, text in enumerate(options.inputs, start=1)
    ]
    for row in rows:
        render(recipe.data.prompt.template, row)
    return rows


def show(found: Sequence[Generated], console: Console) -> None:
    """Input and answer, one below the other."""
    for one in found:
        console.print(Text(f"{one.row.input[:300]}", style="dim"), soft_wrap=True)
        console.print(Text(one.text), soft_wrap=True)
        console.print()
