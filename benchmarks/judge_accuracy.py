"""How well models judge held-out pairs: a row's own output against what a model wrote for it, or pairs of a file.

    python -m benchmarks.judge_accuracy recipes/R.yaml --samples runs/R/stages/S/samples.jsonl --template faithful-summary \
        --judge untuned=base --judge jsft=runs/R/stages/jsft/model --judge reward=runs/R/stages/reward_model/model

    python -m benchmarks.judge_accuracy --pairs pairs-test.jsonl --template moral.yaml --judge untuned=base --judge ...

Judges are language models, asked in both orders for every principle of the template, or reward models. Only rows of the
recipe's validation split that have samples are used.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlft_core.config.load import load_recipe
from rlft_core.config.rewards import REWARD_FACTS
from rlft_core.data.preferences import load_preferences
from rlft_core.data.prepare import rows_of
from rlft_core.evaluation.judges import judge_report
from rlft_core.judging.causal_lm import CausalLmJudge
from rlft_core.judging.protocol import Answer, Comparison
from rlft_core.judging.reward_model import RewardModelJudge
from rlft_core.judging.template import load_template
from rlft_core.models.default_model import resolve_model
from rlft_core.negatives import read_samples


def reports(source: str, template_name: str, pairs: Sequence[Comparison]) -> dict[str, Any]:
    """A report for every principle, and the accuracy of all of them together."""
    tasks = [pair.row.input for pair in pairs]
    if (Path(source) / REWARD_FACTS).is_file():
        return {"reward": judge_report(RewardModelJudge.load(source).compare(pairs), tasks=tasks)}
    template = load_template(template_name)
    folder = str(resolve_model("default" if source == "base" else source))
    verdicts = CausalLmJudge.load(folder, template=template).compare(pairs)
    found: dict[str, Any] = {}
    for number, principle in enumerate(template.principles):
        parts = [verdict.principles[number] if verdict.principles else verdict for verdict in verdicts]
        found[principle or "-"] = judge_report(parts, tasks=tasks)
    found["together"] = {"accuracy": {"mean": sum(verdict.preferred for verdict in verdicts) / len(verdicts)}}
    return found


def pairs_of_run(recipe_path: Path, samples_path: Path) -> list[Comparison]:
    """Outputs of validation rows against the first sample of each."""
    recipe, samples = load_recipe(recipe_path), read_samples(samples_path)
    rows = [row for row in rows_of(recipe.data, Path.cwd(), recipe.seed).validation if samples.get(row.id)]
    return [Comparison(row, Answer(row.output), Answer(*samples[row.id][0])) for row in rows]


def pairs_of_file(path: str) -> list[Comparison]:
    """The preferred text first."""
    found = load_preferences(path, base_dir=Path.cwd()).pairs
    return [Comparison(pair.row, Answer(pair.row.output), Answer(pair.rejected)) for pair in found]


def main() -> None:
    """Print a line for every judge and principle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, nargs="?")
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--pairs", help="A file of pairs (prompt, chosen, rejected) instead of a recipe and samples.")
    parser.add_argument("--template", default="faithful-summary")
    parser.add_argument("--judge", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.pairs is None and (options.recipe is None or options.samples is None):
        parser.error("give a recipe and --samples, or --pairs")
    pairs = (pairs_of_file(options.pairs) if options.pairs else pairs_of_run(options.recipe, options.samples))[
        : options.rows
    ]
    result: dict[str, Any] = {"pairs": len(pairs), "template": options.template, "judges": {}}
    for named in options.judge:
        name, _, source = named.partition("=")
        result["judges"][name] = found = reports(source, options.template, pairs)
        for principle, report in found.items():
            told = ", ".join(f"{k} {v['mean'] if isinstance(v, dict) else v:.3f}" for k, v in report.items())
            print(f"{name} ({principle}): {told}", flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
