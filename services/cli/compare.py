"""`rlft compare`: what several runs wrote for the same rows, judged against one fixed reference."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from rlft_core.config.recipe import Recipe
from rlft_core.config.rewards import REWARD_FACTS
from rlft_core.config.stages import EvaluateStage
from rlft_core.data.prepare import rows_of
from rlft_core.errors import ConfigError, DataError
from rlft_core.evaluation.win_rate import win_rates
from rlft_core.judging.protocol import Answer, Comparison, Judge, Verdict
from rlft_core.judging.template import load_template
from rlft_core.models.default_model import resolve_model
from rlft_core.types import Row
from services.cli.options import run_folder
from services.observe import jsonl
from services.observe.wording import DASH, MINUS, Wording

GOLD = "gold"
_PERCENT = Wording("", percent=True)
_PLAIN_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one run's evaluation left: the rows by id, and each system's answers by row id."""

    name: str
    rows: Mapping[str, Row]
    answers: Mapping[str, Mapping[str, Answer]]

    @property
    def newest(self) -> str:
        """The last system that is not another one post-processed."""
        return [label for label in self.answers if "+" not in label][-1]


def compare_runs(
    names: Sequence[str],
    *,
    reference: str,
    judge: str,
    template: str | None = None,
    stage: str | None,
    runs_dir: Path,
    base_dir: Path,
    out: Path | None,
) -> None:
    """Judge the answers of `RUN` or `RUN:SYSTEM` each against the reference, and print win rates and differences.

    Raises ConfigError, DataError, ModelError or JudgeError.
    """
    chosen: dict[str, Mapping[str, Answer]] = {}
    first: Outputs | None = None
    for name in names:
        outputs, system = _named(name, stage, runs_dir, base_dir)
        label = f"{outputs.name}:{system}"
        if label in chosen:
            raise ConfigError(
                f"{name}: there is a {label} already; name each once, and give folders of one name other ones"
            )
        chosen[label] = outputs.answers[system]
        first = first or outputs
        _check_same_rows(first, outputs)
    assert first is not None
    fixed, told = _reference(reference, first, stage, runs_dir, base_dir)
    ids = _common(first, chosen, fixed)
    judging = load_judge(judge, template, base_dir)
    verdicts: dict[str, list[Verdict]] = {}
    for name, answers in chosen.items():
        verdicts[name] = judging.compare([Comparison(first.rows[i], answers[i], fixed[i]) for i in ids])
    result: dict[str, Any] = {**win_rates(verdicts), "truncated": judging.num_truncated}
    show(result, reference=told, judge=judge, num_rows=len(ids))
    if out is not None:
        record = {"reference": told, "judge": judge, "rows": len(ids), **result}
        out.write_text(json.dumps(record, indent=1), encoding="utf-8")


def load_judge(source: str, template: str | None = None, base_dir: Path | None = None) -> Judge:
    """A reward model's folder, or a causal language model as a folder, hub id or `base`, asked by a template. Imports torch.

    Raises ConfigError, ModelError or JudgeError.
    """
    if (Path(source) / REWARD_FACTS).is_file():
        if template is not None:
            raise ConfigError(
                f"--template {template}: {source} is a reward model and is not asked by one; leave it out"
            )
        from rlft_core.judging.reward_model import RewardModelJudge

        return RewardModelJudge.load(source)
    from rlft_core.judging.causal_lm import CausalLmJudge

    asked = load_template(template, base_dir=base_dir) if template is not None else None
    return CausalLmJudge.load(str(resolve_model("default" if source == "base" else source)), template=asked)


def read_outputs(folder: Path, stage: str | None, base_dir: Path) -> Outputs:
    """What an evaluation of the run left. Raises ConfigError or DataError."""
    resolved = folder / "recipe.resolved.json"
    if not resolved.is_file():
        raise no_run(folder)
    recipe = Recipe.model_validate(json.loads(resolved.read_text(encoding="utf-8")))
    found = [s for s in recipe.stages if isinstance(s, EvaluateStage) and stage in (None, s.name)]
    if not found:
        raise ConfigError(f"{folder.name} has no stage of type evaluate{f' called {stage}' if stage else ''}")
    path = folder / "stages" / found[-1].name / "outputs.jsonl"
    if not path.is_file():
        raise ConfigError(f"{folder.name}: stage '{found[-1].name}' has no outputs yet; run the recipe to its end")
    splits = rows_of(recipe.data, base_dir, recipe.seed)
    rows = {row.id: row for row in (splits.test if found[-1].split == "test" else splits.validation)}
    answers: dict[str, dict[str, Answer]] = {}
    lines: Iterable[dict[str, Any]] = jsonl.read_rows(path)
    for line in lines:
        row_id = str(line["id"])
        if row_id not in rows:
            raise DataError(
                f"{path}: row '{row_id}' is not among data.{found[-1].split}; has the data changed since the run?"
            )
        if line.get("input", rows[row_id].input) != rows[row_id].input:
            raise DataError(
                f"{path}: row '{row_id}' was another one when the run answered it: {str(line['input'])[:60]!r}, and now "
                f"{rows[row_id].input[:60]!r}; bring the data back as it was, or evaluate again"
            )
        metrics: Mapping[str, Mapping[str, float]] = line.get("metrics") or {}
        for label, text in line["outputs"].items():
            ended = bool(metrics.get(label, {}).get("ended_by_eos", 1.0))
            answers.setdefault(label, {})[row_id] = Answer(str(text), ended)
    return Outputs(folder.resolve().name, rows, answers)


def no_run(folder: Path) -> ConfigError:
    """That a folder is none of a run, and which ones beside it are."""
    there = sorted(other.parent.name for other in folder.parent.glob("*/recipe.resolved.json"))
    beside = f"; the runs in {folder.parent} are: {', '.join(there)}" if there else ""
    return ConfigError(f"{folder} is no run's folder: it has no recipe.resolved.json{beside}")


def show(result: Mapping[str, Any], *, reference: str, judge: str, num_rows: int) -> None:
    """Print the table of win rates, and every paired difference."""
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH)
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"Win rate against {reference}, {num_rows} rows, judged by {judge}",
        title_justify="left",
    )
    for head in ("", "Win rate [95 % interval]", "Wins", "Ties", "Losses", "Orders agree"):
        table.add_column(head, justify="left" if not head else "right")
    for name, found in result["systems"].items():
        rate = found["rate"]
        told = f"{_PERCENT.value(rate['mean'])} [{100 * rate['low']:.1f} {DASH} {100 * rate['high']:.1f}]"
        counts = (str(found[key]) for key in ("wins", "ties", "losses"))
        table.add_row(name, told, *counts, _PERCENT.value(found["agreement"]))
    console.print(table)
    for name, found in result["differences"].items():
        bounds = f"{100 * found['low']:+.1f}, {100 * found['high']:+.1f}".replace("-", MINUS)
        console.print(
            f"{name}: {_PERCENT.change(found['mean'])} [{bounds}], p = {found['p']:.4f}", soft_wrap=True, markup=False
        )
    if result["truncated"]:
        console.print(
            f"{result['truncated']} of {num_rows * len(result['systems'])} comparisons were too long for the judge: it saw the "
            "task cut from its end, then both answers cut to one length",
            style="yellow",
            soft_wrap=True,
        )
    biased = [name for name, found in result["systems"].items() if abs(found["first"] - 0.5) > 0.1]
    for name in biased:
        share = result["systems"][name]["first"]
        console.print(
            f"{name}: the judge gives whatever stands first {100 * share:.0f} %: a fair one would not look at the place",
            style="yellow",
            soft_wrap=True,
        )


def _named(name: str, stage: str | None, runs_dir: Path, base_dir: Path) -> tuple[Outputs, str]:
    """`RUN` or `RUN:SYSTEM` as a run's outputs and one of its systems."""
    run, _, system = name.partition(":")
    outputs = read_outputs(run_folder(Path(run), runs_dir), stage, base_dir)
    system = system or outputs.newest
    if system not in outputs.answers:
        raise ConfigError(f"{name}: the run has no system '{system}'; it has {', '.join(outputs.answers)}")
    return outputs, system


def _reference(
    reference: str, first: Outputs, stage: str | None, runs_dir: Path, base_dir: Path
) -> tuple[Mapping[str, Answer], str]:
    """`gold`, a system of the first run, or `RUN:SYSTEM`: its answers and what it is called."""
    if reference == GOLD:
        return {row.id: Answer(row.output) for row in first.rows.values()}, "the rows' own outputs"
    if reference in first.answers:
        return first.answers[reference], f"{first.name}:{reference}"
    if ":" not in reference:
        there = ", ".join([GOLD, *first.answers])
        raise ConfigError(f"--reference {reference}: choose from {there}, or name another run's system as RUN:SYSTEM")
    outputs, system = _named(reference, stage, runs_dir, base_dir)
    return outputs.answers[system], f"{outputs.name}:{system}"


def _check_same_rows(first: Outputs, other: Outputs) -> None:
    """Raise DataError where two runs call different rows by one id."""
    shared = [i for i in other.rows if i in first.rows]
    differ = [
        i for i in shared if (first.rows[i].input, first.rows[i].output) != (other.rows[i].input, other.rows[i].output)
    ]
    if differ:
        raise DataError(
            f"{first.name} and {other.name} call {len(differ)} different rows by the same id, '{differ[0]}' among them; compare "
            "runs that were evaluated on the same rows"
        )


def _common(first: Outputs, chosen: Mapping[str, Mapping[str, Answer]], fixed: Mapping[str, Answer]) -> list[str]:
    """Ids of the rows that all have answered; DataError when systems answered different ones."""
    ids = list(next(iter(chosen.values())))
    for name, answers in chosen.items():
        if set(answers) != set(ids):
            raise DataError(
                f"{name} answered {len(answers)} rows and {next(iter(chosen))} {len(ids)}, {len(set(answers) & set(ids))} of "
                "them the same; compare runs that were evaluated on the same rows"
            )
    missing = [i for i in ids if i not in fixed]
    if missing:
        raise DataError(
            f"the reference has no answer for {len(missing)} of {len(ids)} rows, row '{missing[0]}' among them"
        )
    return ids
