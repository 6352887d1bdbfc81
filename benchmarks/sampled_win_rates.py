"""Win rates of answers that were drawn, not greedy: what a policy's distribution is worth, not only its likeliest text.

    python -m benchmarks.sampled_win_rates runs/R-0 runs/R-1 --judge FOLDER --systems off_policy on_policy --samples 8 \
        --answers FILE.jsonl --out FILE.json

Each stage's model of each run draws `--samples` answers at `--temperature` to the test rows, and so does what they start from. A
row's outcome is the share of all pairs of an answer and a start's answer in which the judge prefers the first. What stands in
`--answers` already is not drawn again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.settings import ROOT
from benchmarks.win_rates import difference, points
from rlft_core.batching.schedule import sampling_seed
from rlft_core.config.recipe import Recipe
from rlft_core.config.rollout import RolloutConfig
from rlft_core.config.stages import BASE
from rlft_core.data.prepare import rows_of
from rlft_core.evaluation.bootstrap import crossed_interval, interval
from rlft_core.judging.protocol import Answer, Comparison
from rlft_core.models.loading import load_tokenizer
from rlft_core.types import Prompt, RolloutGroup, Row
from services.cli.compare import load_judge
from services.cli.generate import model_of
from services.cluster.session import session
from services.observe import jsonl
from services.pipeline.context import engine_needs
from services.pipeline.encoding import encode_prompts
from services.rollout.create import create_fleet
from services.rollout.engine import Sampling
from services.weights.folder import publication_of

Drawn = dict[str, dict[str, list[Answer]]]
"""Answers by model and row id."""


def recipe_of(run: Path) -> Recipe:
    """The recipe that a run followed."""
    return Recipe.model_validate(json.loads((run / "recipe.resolved.json").read_text(encoding="utf-8")))


async def draw(recipe: Recipe, models: dict[str, str], rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Add every model's answers to a file, a line for each row."""
    first = next(iter(models.values()))
    sampling = Sampling(options.temperature, options.max_tokens)
    fitting = encode_prompts(
        recipe, rows, load_tokenizer(first), max_new_tokens=options.max_tokens, source="test", notice=print
    )
    rollout = RolloutConfig(num_engines=options.engines)
    fleet = create_fleet(recipe, rollout, first, on_gpu=False, notice=print, lora=False)
    try:
        await fleet.start()
        with options.answers.open("a", encoding="utf-8") as file:
            for number, (label, model) in enumerate(models.items()):
                await fleet.load(publication_of(model, number, recipe.model.dtype))
                prompts = [
                    Prompt(row, tuple(ids), options.samples, sampling_seed("drawn", label, options.seed, row.id))
                    for row, ids in zip(fitting.rows, fitting.ids, strict=True)
                ]
                for ref in await asyncio.gather(*fleet.generate(prompts, sampling)):
                    group: RolloutGroup = await ref
                    texts = [(found.text, found.finish_reason == "stop") for found in group.completions]
                    line = {"model": label, "id": group.prompt.row.id, "answers": texts}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                print(f"{label}: {len(prompts)} rows answered", flush=True)
    finally:
        await fleet.stop()


def read(path: Path) -> Drawn:
    """Inverse of `draw`; nothing where there is no file yet."""
    found: Drawn = {}
    lines: list[dict[str, Any]] = list(jsonl.read_rows(path)) if path.exists() else []
    for line in lines:
        answers = [Answer(text, ended) for text, ended in line["answers"]]
        found.setdefault(line["model"], {})[line["id"]] = answers
    return found


def outcomes(drawn: Drawn, rows: Sequence[Row], systems: Sequence[str], runs: Sequence[Path], judge: str) -> np.ndarray:
    """[systems, runs, rows] shares of pairs won against the start."""
    there = [row for row in rows if row.id in drawn[BASE]]
    pairs = [
        Comparison(row, one, other)
        for system in systems
        for run in runs
        for row in there
        for one in drawn[f"{run.name}:{system}"][row.id]
        for other in drawn[BASE][row.id]
    ]
    found = np.array([verdict.outcome for verdict in load_judge(judge).compare(pairs)])
    return found.reshape(len(systems), len(runs), len(there), -1).mean(axis=-1)


def tables(found: np.ndarray, systems: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Print outcomes [systems, runs, rows], and return the numbers."""
    rates: dict[str, Any] = {}
    differences: dict[str, Any] = {}
    print("| drawn, against the start | " + " | ".join(names) + " | together [95 %] | any seed [95 %] |")
    print("|---" * (len(names) + 3) + "|")
    for system, values in zip(systems, found, strict=True):
        whole, every = interval(values.mean(axis=0)), crossed_interval(values)
        seeds = values.mean(axis=1)
        rates[system] = {"seeds": seeds.tolist(), **whole.as_dict(), "any_seed": every.as_dict()}
        cells = " | ".join(f"{100 * value:.1f} %" for value in seeds)
        bounds = f"{100 * whole.mean:.1f} % [{100 * whole.low:.1f}, {100 * whole.high:.1f}]"
        print(f"| {system} | {cells} | {bounds} | [{100 * every.low:.1f}, {100 * every.high:.1f}] |")
    print("\n| difference | points [95 %] | p | any seed [95 %] | p |\n|---|---|---|---|---|")
    for (one, earlier), (two, later) in combinations(zip(systems, found, strict=True), 2):
        told = difference(later, earlier)
        differences[f"{two} - {one}"] = told
        print(f"| {two} − {one} | {100 * told['mean']:+.1f} {points(told)} | {points(told['any_seed'])} |")
    return {"runs": list(names), "rates": rates, "differences": differences}


def main() -> None:
    """Print tables, and write all numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--judge", required=True)
    parser.add_argument("--systems", nargs="+", required=True)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--engines", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--answers", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    recipe = recipe_of(options.runs[0])
    rows = list(rows_of(recipe.data, ROOT, recipe.seed).test)
    models = {BASE: model_of(recipe, options.runs[0], BASE)}
    models |= {f"{run.name}:{s}": model_of(recipe_of(run), run, s) for run in options.runs for s in options.systems}
    there = read(options.answers)
    missing = {label: model for label, model in models.items() if label not in there}
    if missing:
        needs = engine_needs(RolloutConfig(num_engines=options.engines), gpus_there=0)
        with session(recipe.cluster, needs, model_bytes=0):
            asyncio.run(draw(recipe, missing, rows, options))
    found = outcomes(read(options.answers), rows, options.systems, options.runs, options.judge)
    result = tables(found, options.systems, [run.name for run in options.runs])
    result |= {"judge": options.judge, "samples": options.samples, "temperature": options.temperature}
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
