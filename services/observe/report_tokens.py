"""Texts with their tokens coloured by reward: samples of training, and held-out edits side by side. Reads no file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.observe.wording import MINUS

_STRONGEST = 0.95  # this quantile of the rewards is coloured fully: a single outlier must not pale all others
_END, _NO_TEXT = "▪", "·"


@dataclass(frozen=True, slots=True)
class HeatToken:
    """A token to show: `tone` up, down or none; `strength` in [0, 1]; `tip` says the reward in words; `touched`: an edit
    changed it."""

    text: str
    tone: str
    strength: float
    tip: str
    touched: bool = False


@dataclass(frozen=True, slots=True)
class EditView:
    """A held-out edit: what stood there and what became of it, each with the model's token rewards."""

    kind: str
    prompt: str
    worse: tuple[HeatToken, ...]
    better: tuple[HeatToken, ...]


def scale_of(tokens: Iterable[Mapping[str, Any]]) -> float:
    """The size of reward that is coloured fully."""
    sizes = sorted(abs(float(token["reward"])) for token in tokens)
    return sizes[min(len(sizes) - 1, int(_STRONGEST * len(sizes)))] if sizes else 0.0


def heat(tokens: Sequence[Mapping[str, Any]], scale: float) -> tuple[HeatToken, ...]:
    """Tokens with {text, reward} and perhaps {parts, touched}. What has no text of its own is shown as a sign: the end of
    the text, or a token that ends inside a character."""
    return tuple(_heat_token(token, scale, last=token is tokens[-1]) for token in tokens)


def edits_of(rows: Sequence[Mapping[str, Any]]) -> list[EditView]:
    """The lines of a stage's tokens.jsonl."""
    scale = scale_of(token for row in rows for side in ("worse", "better") for token in row[side])
    return [
        EditView(
            str(row.get("kind", "")).replace("_", " "),
            str(row.get("prompt", "")),
            heat(row["worse"], scale),
            heat(row["better"], scale),
        )
        for row in rows
    ]


def _heat_token(token: Mapping[str, Any], scale: float, *, last: bool) -> HeatToken:
    reward = float(token["reward"])
    parts: Mapping[str, float] = token.get("parts") or {}
    told = [_signed(reward)]
    if parts:
        told = [f"in all {_signed(reward)}", *(f"{name} {_signed(value)}" for name, value in parts.items())]
    if token.get("touched"):
        told.append("edited")
    strength = min(1.0, abs(reward) / scale) if scale else 0.0
    tone = "" if not strength else "up" if reward > 0 else "down"
    text = str(token["text"])
    return HeatToken(
        text or (_END if last else _NO_TEXT), tone, round(strength, 3), ", ".join(told), bool(token.get("touched"))
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", MINUS)
