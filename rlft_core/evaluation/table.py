"""Systems side by side on the same held-out rows: means with intervals, and differences paired row by row.

Systems are compared by the order they are given in: every later one against every earlier one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from rlft_core.errors import ConfigError, DataError
from rlft_core.evaluation.bootstrap import Interval, interval, paired_difference, paired_p_value
from rlft_core.evaluation.text import Similarity, text_metrics
from rlft_core.rewards.protocol import Reward, Sample
from rlft_core.rewards.scoring import breakdowns


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """What `evaluate` found. Systems and metrics keep the order in which they were given and measured.

    `values[system][metric]` holds one number for each row, in the order of `row_ids`; `intervals[system][metric]`
    the mean of them; `differences["rl-mle"][metric]` the mean of rl minus mle; `p_values` likewise.
    """

    row_ids: tuple[str, ...]
    values: Mapping[str, Mapping[str, Sequence[float]]]
    intervals: Mapping[str, Mapping[str, Interval]]
    differences: Mapping[str, Mapping[str, Interval]]
    p_values: Mapping[str, Mapping[str, float]]

    def summary(self) -> dict[str, dict[str, dict[str, float | int]]]:
        """{system: {metric: {mean, low, high, n}}}, for JSON."""
        return {
            system: {metric: found.as_dict() for metric, found in metrics.items()}
            for system, metrics in self.intervals.items()
        }

    def paired(self) -> dict[str, dict[str, dict[str, float | int]]]:
        """{"later-earlier": {metric: {mean, low, high, n, p}}}, for JSON."""
        return {
            pair: {metric: found.as_dict() | {"p": self.p_values[pair][metric]} for metric, found in metrics.items()}
            for pair, metrics in self.differences.items()
        }


def evaluate(
    systems: Mapping[str, Sequence[Sample]],
    *,
    rewards: Sequence[Reward] = (),
    embedder: Similarity | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> EvaluationResult:
    """Measure every system by the text metrics and by `rewards`, each unweighted and with its details.

    Args:
        systems: samples of each system, one for each row, all over the same rows in the same order.
        rewards: reported under their names, details under `<reward>/<detail>`.
        embedder: adds `similarity_to_reference`.
        level: of all intervals.
        resamples: bootstrap samples of each interval.
        seed: of bootstrap and test; the same seed for every metric, so that rows are resampled alike.

    Raises:
        DataError: no systems, no rows, or systems that answered different rows.
        ConfigError: a reward has the name of a text metric.
        RewardError: a reward has no finite value for some sample; evaluation skips nothing.
    """
    row_ids = _common_rows(systems)
    values = {system: _measure(samples, rewards, embedder) for system, samples in systems.items()}
    intervals = {
        system: {
            metric: interval(numbers, level=level, resamples=resamples, seed=seed)
            for metric, numbers in metrics.items()
        }
        for system, metrics in values.items()
    }
    differences: dict[str, dict[str, Interval]] = {}
    p_values: dict[str, dict[str, float]] = {}
    for earlier, later in combinations(values, 2):
        pair = f"{later}-{earlier}"
        shared = [metric for metric in values[later] if metric in values[earlier]]
        ours, theirs = values[later], values[earlier]
        differences[pair] = {
            metric: paired_difference(ours[metric], theirs[metric], level=level, resamples=resamples, seed=seed)
            for metric in shared
        }
        p_values[pair] = {metric: paired_p_value(ours[metric], theirs[metric], seed=seed) for metric in shared}
    return EvaluationResult(row_ids, values, intervals, differences, p_values)


def render(result: EvaluationResult, *, metrics: Sequence[str] | None = None) -> str:
    """Two tables in plain text: systems, then paired differences; a star marks an interval that excludes 0.

    `metrics` selects and orders the rows of the tables; by default all of them, in measured order.
    """
    systems = _table(result.intervals, metrics, signed=False)
    if not result.differences:
        return systems
    return f"{systems}\n\npaired differences\n{_table(result.differences, metrics, signed=True)}"


def _common_rows(systems: Mapping[str, Sequence[Sample]]) -> tuple[str, ...]:
    if not systems:
        raise DataError("there is no system to evaluate: name at least one model")
    ids = {system: tuple(sample.row.id for sample in samples) for system, samples in systems.items()}
    first, expected = next(iter(ids.items()))
    if not expected:
        raise DataError(f"system '{first}' has no samples: the split to evaluate on is empty")
    for system, found in ids.items():
        if len(found) != len(expected):
            raise DataError(f"systems answered different rows: '{first}' {len(expected)}, '{system}' {len(found)}")
        for position, (left, right) in enumerate(zip(expected, found, strict=True), start=1):
            if left != right:
                raise DataError(
                    f"systems answered different rows: the {position}. is '{left}' for '{first}' and '{right}' for "
                    f"'{system}'. Evaluate all of them on the same rows in the same order."
                )
    return expected


def _measure(
    samples: Sequence[Sample], rewards: Sequence[Reward], embedder: Similarity | None
) -> dict[str, list[float]]:
    """Text metrics and rewards by name. A detail that a reward gives for some samples only is left out."""
    metrics = text_metrics(samples, embedder=embedder)
    for reward in rewards:
        if reward.name in metrics:
            raise ConfigError(f"reward '{reward.name}' has the name of another metric; give it a `name` of its own")
        found = breakdowns(reward, samples)
        complete = [key for key in found[0] if all(key in breakdown for breakdown in found)]
        metrics |= {key: [breakdown[key] for breakdown in found] for key in complete}
    return metrics


def _table(columns: Mapping[str, Mapping[str, Interval]], metrics: Sequence[str] | None, *, signed: bool) -> str:
    every = list(dict.fromkeys(metric for column in columns.values() for metric in column))
    rows = [metric for metric in (every if metrics is None else metrics) if metric in every]
    cells = [["", *columns]]
    for metric in rows:
        found = [column.get(metric) for column in columns.values()]
        cells.append([metric, *("-" if cell is None else _cell(cell, signed=signed) for cell in found)])
    widths = [max(len(line[index]) for line in cells) for index in range(len(cells[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in cells
    )


def _cell(found: Interval, *, signed: bool) -> str:
    sign = "+" if signed else ""
    mark = ("*" if found.low > 0.0 or found.high < 0.0 else " ") if signed else ""
    return f"{found.mean:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]{mark}"
