"""The best of several answers by the model's own judgement, in a tournament; who asks the model is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from rlft_core.errors import JudgeError
from rlft_core.judging.groups import Group, find_winners
from rlft_core.judging.protocol import Answer
from rlft_core.judging.questions import Questioner
from rlft_core.types import Row

Ask = Callable[[Sequence[list[int]], tuple[int, ...]], Awaitable[np.ndarray]]
"""Prompts and labels -> [prompts, labels] log-probs of the labels as what comes next."""


async def best_answer(
    question: str, answers: Sequence[tuple[str, bool]], seed: int, questioner: Questioner, ask: Ask
) -> int:
    """The index of the winner; answers are texts, and whether they ended. Raises JudgeError."""
    group = Group(Row("request", question, ""), tuple(Answer(text, ended) for text, ended in answers))
    rounds = find_winners([group], seeds=[seed])
    try:
        asked = next(rounds)
        while True:
            prompts = questioner.prompts(asked)
            chances: list[list[float]] = []
            if prompts:
                found = np.exp((await ask(prompts, questioner.labels)).astype(np.float64))
                if not np.isfinite(found).all():
                    raise JudgeError("the model gave a probability that is no number; its weights are broken")
                chances = found.tolist()
            asked = rounds.send(questioner.verdicts(asked, chances))
    except StopIteration as end:
        (judged,) = end.value
        return int(np.argmax(judged.scores))
