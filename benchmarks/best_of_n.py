"""What the best of N answers is worth: `rlft generate RUN --best-of N` for several N, judged by a reward model that took no part.

    python -m benchmarks.best_of_n runs/R --stage on_policy --judge runs/J/stages/reward_model/model --rows 100 [--out FILE]

Answers are held against the rows' own outputs. N = 1 is sampled as the others are, at temperature 1, and is no greedy answer.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.settings import ROOT
from rlft_core.config.recipe import Recipe
from rlft_core.data.prepare import rows_of
from rlft_core.evaluation.bootstrap import interval, paired_p_value
from rlft_core.judging.protocol import Answer, Comparison
from services.cli.compare import load_judge


def answers(run: Path, options: argparse.Namespace, number: int) -> list[dict[str, Any]]:
    """Rows that `rlft generate` wrote."""
    out = run / f"best-of-{number}.jsonl"
    command = [sys.executable, "-m", "services.cli.main", "generate", f"{run}:{options.stage}", "--out", str(out)]
    command += ["--best-of", str(number), "--rows", str(options.rows), "--temperature", "1", "--max-tokens", "32"]
    command += ["--by", options.by] if number > 1 else []
    command += ["--template", options.template] if options.template and number > 1 else []
    subprocess.run(command, check=True, capture_output=True)
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Print a table, and write all numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--stage", required=True)
    parser.add_argument("--judge", required=True)
    parser.add_argument("--by", default="tournament")
    parser.add_argument("--template", help="How the model is asked to judge; default: the one of `rlft generate`.")
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    recipe = Recipe.model_validate(json.loads((options.run / "recipe.resolved.json").read_text(encoding="utf-8")))
    rows = list(rows_of(recipe.data, ROOT, recipe.seed).test[: options.rows])
    judge = load_judge(options.judge)
    result: dict[str, Any] = {"rows": len(rows), "by": options.by, "judge": options.judge, "sizes": {}}
    first: np.ndarray | None = None
    print("| N | win rate against the references [95 %] | more than N = 1 | seconds |\n|---|---|---|---|")
    for number in options.sizes:
        started = time.monotonic()
        found = {line["id"]: Answer(line["output"], line["ended"]) for line in answers(options.run, options, number)}
        seconds = time.monotonic() - started
        verdicts = judge.compare([Comparison(row, found[row.id], Answer(row.output)) for row in rows])
        outcomes = np.array([verdict.outcome for verdict in verdicts])
        first = outcomes if first is None else first
        rate, gain = interval(outcomes), interval(outcomes - first)
        p = paired_p_value(outcomes, first)
        result["sizes"][number] = {"rate": rate.as_dict(), "gain": {**gain.as_dict(), "p": p}, "seconds": seconds}
        bounds = f"{100 * rate.mean:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
        more = f"{100 * gain.mean:+.1f} points [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}], p {p:.4f}"
        print(f"| {number} | {bounds} | {more} | {seconds:.0f} |", flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
