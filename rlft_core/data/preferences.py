"""Preference pairs from a user's file: a task, the answer that was preferred, and the one that was not.

The common shapes are understood: texts in columns `prompt`, `chosen`, `rejected`; conversations as lists of messages, with or
without a prompt of their own; transcripts "Human: ... Assistant: ..." as text. A pair without a winner is left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlft_core.data.load import open_source
from rlft_core.errors import DataError
from rlft_core.types import Row

_TURN = re.compile(r"\n\n(Human|Assistant):")
_UNANSWERED = "{place}: field '{field}' does not end with what the assistant said."
_SPEAKERS = {"user": "User", "human": "User", "assistant": "Assistant", "gpt": "Assistant", "system": "System"}


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """`row` has the task as its input and the preferred answer as its output."""

    row: Row
    rejected: str


@dataclass(frozen=True, slots=True)
class Preferences:
    """Pairs in the file's order, and how many were left out because both answers are the same."""

    pairs: tuple[PreferencePair, ...]
    num_equal: int


def load_preferences(
    source: str,
    *,
    prompt_field: str = "prompt",
    chosen_field: str = "chosen",
    rejected_field: str = "rejected",
    needed: Sequence[str] = (),
    split: str | None = None,
    base_dir: Path | None = None,
) -> Preferences:
    """Read and check the pairs of a file or hub data set (`hf:org/name`); the columns `needed` must be texts too.

    Raises DataError naming the file, the row counted from 1, the field, and what to do; also when no pair is left.
    """
    name, stem, records = open_source(source, split=split, base_dir=base_dir)
    pairs: list[PreferencePair] = []
    num_equal = 0
    for record in records:
        place = f"{name}, {record.where}"
        sides = [_side(record.values, field, place) for field in (chosen_field, rejected_field)]
        prompts = [before for before, _ in sides if before is not None]
        given = record.values.get(prompt_field)
        if isinstance(given, str) and given.strip():
            prompt = given
        elif isinstance(given, list) and given and not prompts:
            prompt = _conversation(_turns(given, prompt_field, place))
        elif prompts and prompts[0] == prompts[-1]:
            prompt = prompts[0]
        else:
            raise DataError(
                f"{place}: no task: '{prompt_field}' is no text, and '{chosen_field}' and '{rejected_field}' do not begin with "
                f"the same conversation. Give the task in '{prompt_field}', or name its column."
            )
        chosen, rejected = (answer for _, answer in sides)
        if chosen.strip() == rejected.strip():
            num_equal += 1
            continue
        for column in needed:
            if not isinstance(record.values.get(column), str):
                there = ", ".join(sorted(record.values))
                raise DataError(f"{place}: field '{column}' is missing or no text. The row has {there}.")
        fields = {**record.values, "input": prompt, "output": chosen}
        pairs.append(PreferencePair(Row(f"{stem}:{record.number}", prompt, chosen, fields), rejected))
    if not pairs:
        raise DataError(f"{name} holds no pair with a winner ({num_equal} have two equal answers). Give other pairs.")
    return Preferences(tuple(pairs), num_equal)


def _side(values: Mapping[str, Any], field: str, place: str) -> tuple[str | None, str]:
    """What came before the answer, where the column holds it too, and the answer."""
    if field not in values:
        raise DataError(f"{place}: no field '{field}'. The row has {', '.join(sorted(values))}.")
    value = values[field]
    if isinstance(value, str) and value.strip():
        return _from_transcript(value, field, place)
    if isinstance(value, list) and value:
        return _from_messages(value, field, place)
    raise DataError(f"{place}: field '{field}' must be text, or a list of messages, that is not empty.")


def _from_transcript(text: str, field: str, place: str) -> tuple[str | None, str]:
    """A transcript as its turns before the last one and that one; any other text is an answer by itself."""
    whole = "\n\n" + text.lstrip()
    turns = list(_TURN.finditer(whole))
    if not turns or turns[0].start() != 0 or all(turn[1] == "Human" for turn in turns):
        return None, text
    ends = [*(turn.start() for turn in turns[1:]), len(whole)]
    said = [(turn[1], whole[turn.end() : end].strip()) for turn, end in zip(turns, ends, strict=True)]
    if said[-1][0] != "Assistant" or not said[-1][1]:
        raise DataError(_UNANSWERED.format(place=place, field=field))
    return _conversation([(who.lower(), content) for who, content in said[:-1]]) if said[:-1] else None, said[-1][1]


def _from_messages(messages: Sequence[Any], field: str, place: str) -> tuple[str | None, str]:
    turns = _turns(messages, field, place)
    if _SPEAKERS[turns[-1][0]] != "Assistant" or not turns[-1][1].strip():
        raise DataError(_UNANSWERED.format(place=place, field=field))
    return (_conversation(turns[:-1]) if turns[:-1] else None), turns[-1][1]


def _turns(messages: Sequence[Any], field: str, place: str) -> list[tuple[str, str]]:
    """(role, content) of each message."""
    turns: list[tuple[str, str]] = []
    for number, message in enumerate(messages, start=1):
        role = message.get("role", message.get("from")) if isinstance(message, Mapping) else None
        content = message.get("content", message.get("value")) if isinstance(message, Mapping) else None
        if not isinstance(content, str) or str(role).lower() not in _SPEAKERS:
            raise DataError(
                f"{place}: field '{field}', message {number}: needs a role (user, assistant or system) and a content that is text"
            )
        turns.append((str(role).lower(), content))
    return turns


def _conversation(turns: Sequence[tuple[str, str]]) -> str:
    """A single question as it is; several turns with their speakers."""
    if len(turns) == 1:
        return turns[0][1]
    return "\n\n".join(f"{_SPEAKERS[who]}: {content}" for who, content in turns)
