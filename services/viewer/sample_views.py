"""Samples as a page shows them: rewards, what they are made of, what a judge said in words, tokens coloured. Reads no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.observe.report_tokens import HeatToken, heat
from services.observe.wording import MINUS, wording
from services.viewer.samples import Watched

MOST_TOKENS = 600  # of one text: a page must not choke on a novel
MOST_CHARACTERS = 6000
_SAID = ("agreement", "first", "entropy", "ties", "truncated", "sure")  # what judges add to a score


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge made of one sample, in words."""

    judge: str
    score: str
    told: str


@dataclass(frozen=True, slots=True)
class SampleView:
    """One text. `step` and `place` (1 is the best of its prompt) say where it comes from."""

    step: int
    place: int
    output: str
    tokens: tuple[HeatToken, ...]
    num_hidden: int
    reward: str
    parts: tuple[tuple[str, str], ...]
    verdicts: tuple[Verdict, ...]
    remark: str


@dataclass(frozen=True, slots=True)
class PromptView:
    """A prompt with its samples, the best first."""

    id: str
    prompt: str
    reference: str
    told: str
    samples: tuple[SampleView, ...]


def prompt_view(row_id: str, rows: Sequence[Mapping[str, Any]], scale: float) -> PromptView:
    """The samples of one prompt at one step."""
    ordered = sorted(rows, key=lambda row: -_reward(row))
    rewards = [_reward(row) for row in rows]
    spread = f"{signed(min(rewards))} to {signed(max(rewards))}" if len(rows) > 1 else signed(rewards[0])
    return PromptView(
        id=row_id,
        prompt=str(rows[0].get("prompt", ""))[:MOST_CHARACTERS],
        reference=str(rows[0].get("reference", ""))[:MOST_CHARACTERS],
        told=f"{len(rows)} sample{'s' if len(rows) != 1 else ''}, reward {spread}",
        samples=tuple(sample_view(row, place, scale) for place, row in enumerate(ordered, start=1)),
    )


def sample_view(row: Mapping[str, Any], place: int, scale: float) -> SampleView:
    """One sample. A text that is very long is cut, and says so."""
    breakdown = {str(name): value for name, value in (row.get("breakdown") or {}).items()}
    judges = [name for name in breakdown if f"{name}/agreement" in breakdown or f"{name}/sure" in breakdown]
    said = {f"{judge}/{word}" for judge in judges for word in _SAID}
    tokens = [_known(token) for token in row.get("tokens") or ()]
    output = str(row.get("output", ""))
    hidden = max(0, len(tokens) - MOST_TOKENS) if tokens else max(0, len(output) - MOST_CHARACTERS)
    return SampleView(
        step=int(row.get("step") or 0),
        place=place,
        output=output[:MOST_CHARACTERS],
        tokens=heat(tokens[:MOST_TOKENS], scale),
        num_hidden=hidden,
        reward=signed(_reward(row)) if isinstance(row.get("reward"), int | float) else "none",
        parts=tuple(
            (wording(name).label, _written(name, value) if isinstance(value, int | float) else "none")
            for name, value in breakdown.items()
            if name not in said and name not in judges
        ),
        verdicts=tuple(_verdict(judge, breakdown) for judge in judges),
        remark=_remark(row),
    )


def watch_rewards(row: Watched) -> tuple[list[int], list[float]]:
    """Steps and rewards of the looks at one row."""
    found = [(look.step, look.reward) for look in row.looks if look.reward is not None]
    return [step for step, _ in found], [reward for _, reward in found]


def signed(value: float) -> str:
    """`+0.60`."""
    return f"{value:+.2f}".replace("-", MINUS)


def _known(token: Mapping[str, Any]) -> dict[str, Any]:
    """The token without numbers that were none."""
    parts = {name: value for name, value in (token.get("parts") or {}).items() if isinstance(value, int | float)}
    return {"text": token.get("text") or "", "reward": token.get("reward") or 0.0, "parts": parts}


def _verdict(judge: str, breakdown: Mapping[str, Any]) -> Verdict:
    def share(word: str) -> str | None:
        value = breakdown.get(f"{judge}/{word}")
        return f"{100 * value:.0f} %" if isinstance(value, int | float) else None

    score = breakdown[judge]
    number = score if isinstance(score, int | float) else 0.0
    told = []
    if share("agreement") is not None:
        scored = f"won {100 * number:.0f} % of its comparisons"
        told.append(f"asked in both orders, the judge said the same in {share('agreement')}")
        if share("ties") not in (None, "0 %"):
            told.append(f"ties {share('ties')}")
        if share("first") is not None:
            told.append(f"gave {share('first')} to whatever stood first")
    else:
        scored = f"graded {100 * number:.0f} of 100"
        if share("sure") is not None:
            told.append(f"{share('sure')} of the probability was on grades")
    if breakdown.get(f"{judge}/truncated"):
        told.append("the task was cut to fit")
    return Verdict(judge.replace("_", " "), scored, "; ".join(told))


def _remark(row: Mapping[str, Any]) -> str:
    if row.get("skipped"):
        return f"skipped: {row['skipped']}"
    return "cut off at the longest length" if row.get("finish_reason") == "length" else ""


def _written(name: str, value: float) -> str:
    """A reward has a sign; what it is made of may be a count or a share."""
    return f"{value:.2f}".replace("-", MINUS) if "/" in name else signed(value)


def _reward(row: Mapping[str, Any]) -> float:
    reward = row.get("reward")
    return float(reward) if isinstance(reward, int | float) else 0.0
