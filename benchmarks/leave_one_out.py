"""What each kind of negative contributes: a reward model without it, measured on all kinds.

    python -m benchmarks.leave_one_out recipes/last_mile.yaml --model MLE_FOLDER --samples SAMPLES_JSONL --steps 40

One process without Ray: the recipe's reward-model stage in short, once with all kinds and once without each. Prints a table of
held-out accuracies and writes it as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from rlft_core.batching.schedule import rows_of_step
from rlft_core.config.load import load_recipe
from rlft_core.config.recipe import Recipe
from rlft_core.config.stages import RewardModelStage
from rlft_core.data import Splits
from rlft_core.data.prepare import rows_of
from rlft_core.evaluation.pairs import pairs_report
from rlft_core.models.compute import Compute
from rlft_core.models.loading import load_tokenizer, trainable_reward_model
from rlft_core.negatives import Corpus, make_corpus, make_negatives, one_of_each, read_samples
from rlft_core.updates.collective import Alone
from rlft_core.updates.optimizer import make_optimizer
from rlft_core.updates.reward import RewardState, reward_update, score_contrasts
from rlft_core.updates.reward_texts import TokenContrast
from services.pipeline.encoding import encode_contrasts


def without(stage: RewardModelStage, label: str | None) -> RewardModelStage:
    """The stage with one kind only measured, not trained on."""
    kinds = [kind.model_copy(update={"share": 0.0}) if kind.label == label else kind for kind in stage.negatives]
    return stage.model_copy(update={"negatives": tuple(kinds)})


def contrasts(
    recipe: Recipe, stage: RewardModelStage, splits: Splits, corpus: Corpus, tokenizer: Any
) -> list[TokenContrast]:
    """What is trained on, in its order."""
    order = rows_of_step(0, num_rows=len(splits.train), per_step=stage.num_steps * stage.batch_rows, seed=recipe.seed)
    rows = [splits.train[index] for index in order]
    made = make_negatives(rows, corpus, stage.negatives, per_row=stage.negatives_per_row, seed=recipe.seed + 1)
    return encode_contrasts(recipe, made.contrasts, tokenizer, skipped=Counter())


def train(recipe: Recipe, stage: RewardModelStage, model: str, rows: list[TokenContrast]) -> RewardState:
    """A reward model after the stage's steps."""
    torch.manual_seed(recipe.seed)
    learner = stage.learner
    found = trainable_reward_model(
        model, attention="dense", freeze=learner.freeze, gradient_checkpointing=False, seed=recipe.seed
    )
    compute = Compute(
        torch.device("cpu"), torch.bfloat16, "dense", True, learner.max_row_tokens, learner.max_batch_tokens
    )
    state = RewardState(found, make_optimizer(found, stage.optimizer), compute, Alone())
    for step in range(stage.num_steps):
        reward_update(state, rows[step * stage.batch_rows : (step + 1) * stage.batch_rows], stage)
    return state


def main() -> None:
    """Train and measure all variants, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--model", required=True, help="folder of the supervised stage's model")
    parser.add_argument("--samples", type=Path, required=True, help="samples.jsonl of the recipe's reward-model stage")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows", type=int, default=100, help="validation rows to measure on")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    recipe = load_recipe(options.recipe)
    whole = next(stage for stage in recipe.stages if isinstance(stage, RewardModelStage))
    whole = whole.model_copy(update={"num_steps": options.steps})
    splits = rows_of(recipe.data, Path.cwd(), recipe.seed)
    tokenizer = load_tokenizer(options.model)
    corpus = make_corpus(
        splits.train,
        whole.negatives,
        tokenizer=tokenizer,
        samples=read_samples(options.samples),
        family_field=recipe.data.family_field,
    )
    held_out = one_of_each(splits.validation[: options.rows], corpus, whole.negatives, seed=recipe.seed)
    measured = encode_contrasts(recipe, held_out.contrasts, tokenizer, skipped=Counter())
    results: dict[str, Any] = {"steps": options.steps, "rows": options.rows, "without": {}}
    for label in [None, *(kind.label for kind in whole.negatives)]:
        started = time.perf_counter()
        stage = without(whole, label)
        state = train(recipe, stage, options.model, contrasts(recipe, stage, splits, corpus, tokenizer))
        report = pairs_report(score_contrasts(state, measured, stage), [contrast.kinds for contrast in measured])
        results["without"][label or "(nothing)"] = {k: v["accuracy"] for k, v in report["kinds"].items()}
        told = "  ".join(f"{kind} {found['accuracy']['mean']:.3f}" for kind, found in report["kinds"].items())
        print(f"without {label or 'nothing'} ({time.perf_counter() - started:.0f} s): {told}", flush=True)
        options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
