"""Every number of a step, once: how Prometheus knows it, what it says, and in which panel of the dashboard it is drawn.

A path is a key of `metrics.jsonl`; a part in braces becomes a label, so `reward/{reward}` is one series for each reward.
What is exported (ray_metrics.py) and what is drawn (dashboard.py) both follow from this table, and a test holds the names
that the code writes against it. Imports no Ray.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

Kind = Literal["gauge", "counter", "histogram"]

#: Labels that every series has.
LABELS = ("run", "stage")
#: What Ray puts before the names of all metrics that it exports.
RAY = "ray_"
SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the table. `unit` is Grafana's name of it; metrics of one `panel` are drawn together."""

    path: str
    help: str
    panel: str
    unit: str = "none"
    kind: Kind = "gauge"
    named: str = ""

    @property
    def name(self) -> str:
        """`rlft_reward_mean` of `reward/mean`, unless the line names it."""
        plain = "_".join(part for part in _PLACE.sub("", self.path).split("/") if part)
        return f"rlft_{self.named or plain}"

    @property
    def labels(self) -> tuple[str, ...]:
        """Its own labels, beside `LABELS`."""
        return tuple(_PLACE.findall(self.path))

    @property
    def exported(self) -> str:
        """As Prometheus knows it. A histogram's series have `_bucket`, `_sum` and `_count` after this."""
        return f"{RAY}{self.name}" + ("_total" if self.kind == "counter" else "")

    def match(self, path: str) -> Mapping[str, str] | None:
        """The labels when `path` is this metric, else None."""
        found = _pattern(self.path).fullmatch(path)
        return found.groupdict() if found else None


#: What a number that is not in the table is exported as: nothing that a step reports is lost.
OTHER = Metric("{metric}", "A number of a step that has no line of its own", "Other numbers", named="other")

TABLE: tuple[Metric, ...] = (
    Metric("step", "Steps of the stage that are done", "Progress"),
    Metric("time/step_s", "Seconds of the last step", "Time of a step", "s", named="last_step_seconds"),
    Metric("time/step_s", "Seconds of a whole step", "Time of a step", "s", "histogram", "step_seconds"),
    Metric("tokens/generated", "Tokens that engines generated", "Tokens per second", "ops", "counter"),
    Metric("tokens/trained", "Tokens that a learner was trained on", "Tokens per second", "ops", "counter"),
    Metric("tokens/prompts", "Prompts that an evaluation answered", "Prompts of evaluations", "short", "counter"),
    Metric("tokens/per_second", "Generated tokens of the last step, by its seconds", "Tokens of the last step", "ops"),
    # What is learned
    Metric("reward/mean", "Mean reward of the step's completions, before KL shaping", "Reward"),
    Metric("reward/std_in_group", "Spread of rewards among completions of one prompt: 0 teaches nothing", "Reward"),
    Metric("reward/skipped", "Completions that took no part", "Completions left out", "short"),
    Metric(
        "reward/{reward}/agreement",
        "Comparisons in which a judge said the same in both orders",
        "Judges",
        "percentunit",
    ),
    Metric(
        "reward/{reward}/first", "Share that a judge gives to what stands first: .5 is fair", "Judges", "percentunit"
    ),
    Metric("reward/{reward}/ties", "Comparisons without a winner", "Judges", "percentunit"),
    Metric(
        "reward/{reward}/entropy", "How undecided a judge is, nats", "Judges: details", named="reward_judge_entropy"
    ),
    Metric("reward/{reward}/truncated", "Texts cut to fit a judge's prompt", "Judges: details", "percentunit"),
    Metric("reward/{reward}/asked", "Questions to a judge behind a service", "Judges: requests", "short"),
    Metric("reward/{reward}/cached", "Of these, answered from the cache", "Judges: requests", "short"),
    Metric("reward/{reward}/cost", "Cost of the step's questions, as the recipe prices them", "Judges: cost"),
    Metric("reward/{reward}/{part}", "Parts of a reward", "Parts of rewards", named="reward_part"),
    Metric("reward/{reward}", "Mean of each reward, unweighted", "Each reward", named="reward"),
    Metric("loss/mean", "Loss of the step, nats per token or pair", "Loss"),
    Metric("loss/validation", "The same on validation rows", "Loss"),
    Metric("pairs/accuracy", "Pairs in which the better text scored higher", "Pairs", "percentunit"),
    Metric("pairs/accuracy_validation", "The same on validation rows", "Pairs", "percentunit"),
    Metric("pairs/gap", "By how much the better text scored higher", "Pairs: margins"),
    Metric("pairs/chosen", "What the preferred text gained, nats", "Pairs: margins"),
    Metric("pairs/rejected", "What the other text gained, nats", "Pairs: margins"),
    Metric("pairs/count", "Pairs of the step", "Pairs: how many", "short"),
    Metric("pairs/ties", "Prompts without a pair", "Pairs: how many", "short"),
    # How it is learned
    Metric("kl/mean", "KL to the reference, nats per token", "KL"),
    Metric("kl/per_sample", "KL to the reference, nats per completion", "KL of a completion"),
    Metric("kl/coefficient", "Weight of the KL", "KL: its weight"),
    Metric("policy/entropy", "Entropy of the policy, nats per token", "Entropy"),
    Metric("policy/clip_fraction", "Tokens whose ratio was clipped", "Clipping", "percentunit"),
    Metric("policy/clip_fraction_lower", "Of these, below", "Clipping", "percentunit"),
    Metric("policy/clip_fraction_upper", "Of these, above", "Clipping", "percentunit"),
    Metric("policy/dual_clip_fraction", "Tokens held by the second clip", "Clipping", "percentunit"),
    Metric("policy/ratio", "New to old probability of a token", "Ratios"),
    Metric("policy/ratio_max", "The largest of these", "Ratios: largest"),
    Metric("policy/importance", "Learner's to engine's probability, truncated", "Ratios"),
    Metric("policy/importance_raw", "The same, not truncated", "Ratios"),
    Metric("policy/importance_raw_max", "The largest of these", "Ratios: largest"),
    Metric("policy/approx_kl", "KL of the update, nats per token", "Update"),
    Metric("policy/loss", "Loss of the policy", "Update"),
    Metric("policy/grad_norm", "Norm of the gradient, before clipping", "Gradient"),
    Metric("policy/lr", "Learning rate", "Learning rate"),
    Metric(
        "policy/lag", "Versions by which samples are older than the weights that learn from them", "Staleness", "short"
    ),
    Metric(
        "policy/engine_difference", "Mean |log-prob difference| of learner and engine, nats", "Engine against learner"
    ),
    Metric("critic/explained_variance", "Share of the returns' variance that the critic knows", "Critic"),
    Metric("critic/value", "Mean value", "Critic"),
    Metric("critic/loss", "Loss of the critic", "Critic"),
    Metric("critic/clip_fraction", "Values that were clipped", "Critic"),
    # Where the time goes
    Metric("tokens/completion_mean", "Tokens of a completion", "Length of completions", "short"),
    Metric("tokens/ended_by_eos", "Completions that ended by themselves", "Ended by themselves", "percentunit"),
    Metric("engines/healthy", "Engines that take requests", "Engines", "short"),
    Metric("engines/restarts", "Restarts of engines since the stage began", "Engines", "short"),
    Metric("sync/seconds", "Seconds until the slowest engine had the weights", "Weight sync", "s"),
    Metric("sync/bytes", "Bytes of one publication", "Weight sync: size", "bytes"),
    Metric("sync/probe", "Mean |log-prob difference| of the probe after a sync, nats", "Engine against learner"),
    Metric("sync/probe_max", "The largest of these", "Engine against learner"),
    Metric("time/coordination_share", "Share of a step in which nothing computes", "Coordination", "percentunit"),
    Metric("time/sampling_busy_s", "Seconds in which an engine or a reward actor was at work", "Sampling", "s"),
    Metric("time/learner_{phase}_s", "Seconds of the learner's phases", "Learner", "s", named="learner_seconds"),
    Metric("time/{phase}_s", "Seconds of the coordinator's phases", "Phases", "s", named="phase_seconds"),
)


@cache
def _pattern(path: str) -> re.Pattern[str]:
    """The path as a pattern: text as it is, `{name}` as anything without a slash."""
    pieces = re.split(_PLACE, path)
    return re.compile("".join(f"(?P<{p}>[^/]+)" if k % 2 else re.escape(p) for k, p in enumerate(pieces)))


def find(path: str) -> tuple[tuple[Metric, Mapping[str, str]], ...]:
    """The lines of a metric's path, with their labels: all that give just this path, else the first that fits, else `OTHER`."""
    exact = tuple((metric, dict[str, str]()) for metric in TABLE if metric.path == path)
    if exact:
        return exact
    for metric in TABLE:
        labels = metric.match(path)
        if labels is not None:
            return ((metric, labels),)
    return ((OTHER, {"metric": path}),)
