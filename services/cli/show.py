"""What `rlft show tokens` prints: texts whose tokens are coloured by what each of them earned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from rlft_core.errors import ConfigError
from services.observe.report_tokens import EditView, HeatToken, edits_of, heat, scale_of
from services.observe.run_files import RunFiles, read_run

_TONES = {"up": (24, 138, 84), "down": (190, 48, 40)}
_PLAIN_WIDTH = 100
_TOLD = 0.5
_MOST_CHARACTERS = 200


def show_tokens(folder: Path, *, stage: str | None, limit: int) -> None:
    """Print held-out edits and the latest samples of a run, coloured by token reward.

    Raises ConfigError when the run, or the stage that is named, has no token rewards.
    """
    run = read_run(folder)
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH, no_color=True)
    sampled = samples_with_tokens(run)
    known = [*run.token_rewards, *(name for name in sampled if name not in run.token_rewards)]
    if stage is not None and stage not in known:
        raise ConfigError(f"--stage {stage}: has no token rewards; stages that have: {', '.join(known) or 'none'}")
    if not known:
        raise ConfigError(
            f"{folder} has no token rewards: no stage of type reward_model has level: token, and no reward of a ppo stage looks "
            "at single tokens"
        )
    for name in [stage] if stage else known:
        for edit in edits_of(run.token_rewards.get(name, ()))[:limit]:
            _print_edit(console, name, edit)
        rows = sampled.get(name, [])[:limit]
        scale = scale_of(token for row in rows for token in row["tokens"])
        for row in rows:
            _print_sample(console, name, row, scale)


def samples_with_tokens(run: RunFiles) -> dict[str, list[Mapping[str, Any]]]:
    """By stage: one sample of each prompt of the last step whose samples were written."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in run.samples:
        if row.get("tokens"):
            found.setdefault(str(row.get("stage")), []).append(row)
    latest = {name: [row for row in rows if row["step"] == rows[-1]["step"]] for name, rows in found.items()}
    return {
        name: list({str(row.get("id")): row for row in reversed(rows)}.values())[::-1] for name, rows in latest.items()
    }


def coloured(tokens: Sequence[HeatToken], *, colour: bool) -> Text:
    """The text, each token on a background as strong as its reward; without colours, strong rewards as numbers."""
    text = Text()
    for token in tokens:
        style = "underline " if token.touched else ""
        if colour and token.tone:
            shade = ",".join(str(round(value * (0.25 + 0.75 * token.strength))) for value in _TONES[token.tone])
            style += f"white on rgb({shade})" if token.strength > 0.15 else ""
        text.append(token.text.replace("\n", "⏎"), style=style.strip())
        if not colour and token.strength > _TOLD:
            text.append(f"⟨{token.tip.split(',')[0].removeprefix('in all ')}⟩")
    return text


def _print_edit(console: Console, stage: str, edit: EditView) -> None:
    console.print(Text(f"{stage}, {edit.kind}: {_short(edit.prompt)}", style="dim"), soft_wrap=True)
    for label, tokens in (("original", edit.worse), ("edited", edit.better)):
        console.print(Text.assemble(f"  {label:<10}", coloured(tokens, colour=not console.no_color)), soft_wrap=True)


def _print_sample(console: Console, stage: str, row: Mapping[str, Any], scale: float) -> None:
    told = f"{stage}, step {row['step']}, reward {float(row['reward']):.2f}: {_short(str(row.get('prompt', '')))}"
    console.print(Text(told, style="dim"), soft_wrap=True)
    tokens = heat(row["tokens"], scale)
    console.print(Text.assemble(f"  {'output':<10}", coloured(tokens, colour=not console.no_color)), soft_wrap=True)
    console.print(Text(f"  {'reference':<10}{_short(str(row.get('reference', '')))}", style="dim"), soft_wrap=True)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 1] + "…"
