"""From rewards to one score for each completion of a group.

A reward's value is never invented. A value that is missing or not a finite number stops the run, or, where the recipe
allows some, leaves the sample out of the update; it is never scored 0. Pure: no process, no model of its own.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from rlft_core.errors import RewardError, ServiceError
from rlft_core.rewards.protocol import Reward, Sample, TokenRewards, WeightedReward, samples_of
from rlft_core.types import RolloutGroup, Score, ScoredGroup


@dataclass(frozen=True, slots=True)
class _Value:
    """One reward's value of one sample, and its breakdown under full names; `per_token` [T] of a token-level reward."""

    value: float
    breakdown: Mapping[str, float]
    per_token: np.ndarray | None = None
    dense: bool = False


_Outcome = _Value | RewardError
_OWN_TOKENS = "a token-level reward model must have the policy's own tokenizer, and see the text as it was generated"


def score_group(group: RolloutGroup, rewards: Sequence[WeightedReward], *, skip_budget: int = 0) -> ScoredGroup:
    """Score every completion: sum over rewards of weight * value, at its last token or, for token-level ones, at every.

    The breakdown holds each reward's unweighted value under its name and its details under `<reward>/<detail>`.

    Args:
        group: N completions of one prompt.
        rewards: at least one; names differ.
        skip_budget: how many samples of this group may fail. A failed sample has `skipped` set to the reward's name
            and zeros per token, and must take no part in the update; `num_skipped` counts them.

    Raises:
        RewardError: a reward raised, or returned something that is not one finite number for each sample. Names the
            reward, the row, the sample (counted from 0) and the value; the original exception is chained.
        ValueError: no rewards, or two of one name.
    """
    names = [weighted.reward.name for weighted in rewards]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"score_group needs at least one reward, with different names; got {names}")
    samples = samples_of(group)
    outcomes = {
        weighted.reward.name: _placed(weighted.reward.name, samples, _outcomes(weighted.reward, samples))
        for weighted in rewards
    }
    scores = tuple(
        _score(sample, index, rewards, {name: values[index] for name, values in outcomes.items()})
        for index, sample in enumerate(samples)
    )
    failures = [score for score in scores if isinstance(score, RewardError)]
    if len(failures) > skip_budget:
        first = failures[0]
        if skip_budget == 0:
            raise first
        raise RewardError(f"{first} ({len(failures)} samples failed, {skip_budget} more may be skipped)") from first
    kept = (
        _skipped(sample, {name: values[index] for name, values in outcomes.items()})
        if isinstance(score, RewardError)
        else score
        for index, (sample, score) in enumerate(zip(samples, scores, strict=True))
    )
    return ScoredGroup(group, tuple(kept))


def num_skipped(scored: ScoredGroup) -> int:
    """How many samples of the group take no part in the update."""
    return sum(score.skipped is not None for score in scored.scores)


def breakdowns(reward: Reward, samples: Sequence[Sample]) -> list[Mapping[str, float]]:
    """The reward's value of each sample under its name, its details under `<reward>/<detail>`; nothing is skipped.

    Raises:
        RewardError: as in `score_group`, for the first sample that fails.
    """
    found = []
    for outcome in _outcomes(reward, samples):
        if isinstance(outcome, RewardError):
            raise outcome
        found.append(outcome.breakdown)
    return found


def _outcomes(reward: Reward, samples: Sequence[Sample]) -> list[_Outcome]:
    """The reward's value of each sample, or why it has none."""
    try:
        values = reward(samples)
    except ServiceError:
        raise  # a part of the running system failed; that says nothing about a sample
    except Exception as error:  # noqa: BLE001 - a reward may be a user's code and raise anything
        return _one_by_one(reward, samples, error)
    return [_checked(reward.name, sample, i, v) for i, (sample, v) in enumerate(_paired(reward, samples, values))]


def _one_by_one(reward: Reward, samples: Sequence[Sample], cause: Exception) -> list[_Outcome]:
    """Score each sample alone, to find the one that made the reward raise.

    When none fails alone, the reward depends on which samples come together; then none of its values can be trusted.
    """
    outcomes: list[_Outcome] = []
    for index, sample in enumerate(samples):
        try:
            values = reward([sample])
        except ServiceError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            what = f"raised {type(error).__name__}: {error} ({_place(error)})"
            outcomes.append(_failure(reward.name, sample, index, what, error))
            continue
        [(_, value)] = _paired(reward, [sample], values)
        outcomes.append(_checked(reward.name, sample, index, value))
    if not any(isinstance(outcome, RewardError) for outcome in outcomes):
        raise RewardError(
            f"reward '{reward.name}' raised {type(cause).__name__}: {cause} on the {len(samples)} samples of "
            f"{_rows(samples)} together, but on none of them alone. A reward must see each sample by itself."
        ) from cause
    return outcomes


def _paired(reward: Reward, samples: Sequence[Sample], values: object) -> list[tuple[Sample, object]]:
    """Samples with their values. RewardError, never skipped, when there is not one for each."""
    rows = _rows(samples)
    if not isinstance(values, (list, tuple, np.ndarray)):
        raise RewardError(
            f"reward '{reward.name}' on {rows} returned {_shown(values)}, not a list with one value for each sample"
        )
    if len(values) != len(samples):
        raise RewardError(
            f"reward '{reward.name}' on {rows} returned {len(values)} values for {len(samples)} samples. "
            "It must return one for each, in the same order."
        )
    return list(zip(samples, values, strict=True))


def _checked(name: str, sample: Sample, index: int, value: object) -> _Outcome:
    """The value with its details, or what is wrong with it."""
    if isinstance(value, TokenRewards):
        return _checked_tokens(name, sample, index, value)
    raw, details = value if isinstance(value, tuple) and len(value) == 2 else (value, {})
    number = _finite(raw)
    if number is None:
        return _failure(name, sample, index, f"returned {_shown(raw)}, which is not a finite number")
    if not isinstance(details, Mapping):
        return _failure(name, sample, index, f"returned the details {_shown(details)}, which are not a mapping")
    breakdown = {name: number}
    for key, detail in details.items():
        part = _finite(detail)
        if part is None:
            return _failure(name, sample, index, f"returned {_shown(detail)} as '{key}', not a finite number")
        breakdown[f"{name}/{key}"] = part
    return _Value(number, breakdown)


def _checked_tokens(name: str, sample: Sample, index: int, found: TokenRewards) -> _Outcome:
    number = _finite(found.value)
    if number is None:
        return _failure(name, sample, index, f"returned {_shown(found.value)}, which is not a finite number")
    if found.per_token is not None and not np.isfinite(found.per_token).all():
        at = int(np.flatnonzero(~np.isfinite(found.per_token))[0])
        return _failure(name, sample, index, f"gave token {at} the reward {found.per_token[at]}")
    return _Value(number, {name: number}, found.per_token, dense=True)


def _placed(name: str, samples: Sequence[Sample], outcomes: Sequence[_Outcome]) -> list[_Outcome]:
    """The outcomes, those that are dense with a reward for each token of their sample or else failed."""
    return [
        _failure(name, sample, i, f"does not say what each of the {len(sample.token_ids)} tokens earns: {_OWN_TOKENS}")
        if isinstance(outcome, _Value)
        and outcome.dense
        and (outcome.per_token is None or len(outcome.per_token) != len(sample.token_ids))
        else outcome
        for i, (sample, outcome) in enumerate(zip(samples, outcomes, strict=True))
    ]


def _score(
    sample: Sample, index: int, rewards: Sequence[WeightedReward], outcomes: Mapping[str, _Outcome]
) -> Score | RewardError:
    """The weighted sum, or the first failure."""
    num_tokens = len(sample.token_ids)
    if num_tokens == 0:
        return _failure("total", sample, index, "has no token to stand at: the completion is empty, without an EOS")
    breakdown: dict[str, float] = {}
    dense: dict[str, np.ndarray] = {}
    per_token = np.zeros(num_tokens)
    for weighted in rewards:
        name, outcome = weighted.reward.name, outcomes[weighted.reward.name]
        if isinstance(outcome, RewardError):
            return outcome
        breakdown |= outcome.breakdown
        if outcome.per_token is None:
            per_token[-1] += weighted.weight * outcome.value
        else:
            dense[name] = outcome.per_token.astype(np.float32)
            per_token += weighted.weight * outcome.per_token
    most = per_token[np.argmax(np.abs(per_token))]
    if not abs(most) <= float(np.finfo(np.float32).max):
        return _failure("total", sample, index, f"is {most}, more than float32 holds")
    return Score(per_token.astype(np.float32), breakdown, dense=dense)


def _skipped(sample: Sample, outcomes: Mapping[str, _Outcome]) -> Score:
    failed = next((name for name, outcome in outcomes.items() if isinstance(outcome, RewardError)), "total")
    found = [outcome.breakdown for outcome in outcomes.values() if isinstance(outcome, _Value)]
    breakdown = {key: value for part in found for key, value in part.items()}
    return Score(np.zeros(len(sample.token_ids), dtype=np.float32), breakdown, skipped=failed)


def _failure(name: str, sample: Sample, index: int, what: str, cause: Exception | None = None) -> RewardError:
    where = f"reward '{name}', row '{sample.row.id}', sample {index}"
    error = RewardError(f"{where}: {what}. Its text: {sample.text!r:.200}")
    error.__cause__ = cause
    return error


def _rows(samples: Sequence[Sample]) -> str:
    ids = list(dict.fromkeys(sample.row.id for sample in samples))
    return f"row '{ids[0]}'" if len(ids) == 1 else f"{len(ids)} rows"


def _place(error: Exception) -> str:
    """File and line where it was raised: the message crosses process borders, the traceback does not."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}:{frame.lineno}"


def _finite(value: object) -> float | None:
    """The value as a float; None when it is no number, or not a finite one."""
    if not isinstance(value, Real | np.bool_):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer beyond what a float holds
        return None
    return number if math.isfinite(number) else None


def _shown(value: object) -> str:
    return f"{type(value).__name__} {value!r:.100}"
