"""What replicas do with models, without a replica: the best of several answers, and scores."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rlft_core.data.encode import encode_prompt, encode_target
from rlft_core.errors import DataError, JudgeError
from rlft_core.judging.questions import Questioner, Tokens
from rlft_core.judging.template import parse_template
from rlft_core.models.loading import load_tokenizer
from rlft_core.serving.checkpoints import find_checkpoint, parse_spec
from rlft_core.types import Row
from services.serving.choosing import best_answer
from services.serving.scoring import RewardScorer
from services.serving.settings import EngineOptions

TEMPLATE = parse_template(
    "short", {"user": "{context} 1: {response_a} 2: {response_b} A or B?", "labels": ["A", "B"], "answer": ""}
)


def questioner(runs_dir: Path) -> Questioner:
    tokenizer = load_tokenizer(runs_dir / "first" / "stages" / "sft" / "model")
    return Questioner.of(TEMPLATE, Tokens(tokenizer), max_length=255)


def test_the_winner_is_the_answer_that_the_model_prefers_in_both_orders(runs_dir: Path) -> None:
    made = questioner(runs_dir)
    medium = made.medium
    assert isinstance(medium, Tokens)
    asked: list[str] = []

    async def ask(prompts: Sequence[list[int]], labels: tuple[int, ...]) -> np.ndarray:
        """Prefers whichever has more of the letter z."""
        texts = [medium.tokenizer.decode(prompt) for prompt in prompts]
        asked.extend(texts)
        first = [text.split("1: ")[1].split(" 2: ")[0].count("z") for text in texts]
        second = [text.split(" 2: ")[1].split(" A or B?")[0].count("z") for text in texts]
        chances = [[0.9, 0.1] if a > b else [0.1, 0.9] for a, b in zip(first, second, strict=True)]
        return np.log(np.asarray(chances, dtype=np.float32))

    answers = [("z", True), ("zzz", True), ("", True), ("zz", False)]
    for seed in range(4):
        assert asyncio.run(best_answer("What?", answers, seed, made, ask)) == 1
    assert len(asked) == 4 * 3 * 2  # three matches, both orders
    assert all("What?" in text for text in asked)


def test_equal_answers_need_no_question_and_broken_weights_are_told(runs_dir: Path) -> None:
    made = questioner(runs_dir)

    async def never(prompts: Sequence[list[int]], labels: tuple[int, ...]) -> np.ndarray:
        raise AssertionError("nothing to ask")

    async def broken(prompts: Sequence[list[int]], labels: tuple[int, ...]) -> np.ndarray:
        return np.full((len(prompts), 2), math.nan)

    assert asyncio.run(best_answer("What?", [("a", True)], 0, made, never)) == 0
    assert asyncio.run(best_answer("What?", [("a", True), ("a", True)], 0, made, never)) in (0, 1)
    with pytest.raises(JudgeError, match=r"the model gave a probability that is no number; its weights are broken"):
        asyncio.run(best_answer("What?", [("a", True), ("b", True)], 0, made, broken))


def test_scores_are_those_of_transformers_however_they_arrive(runs_dir: Path, tmp_path: Path) -> None:
    found = find_checkpoint(parse_spec("first:reward_model"), runs_dir, tmp_path)
    scorer = RewardScorer(found, EngineOptions())

    async def talk() -> list[tuple[float, ...]]:
        asked = [
            scorer.score("a file", ["one", "two words"]),
            scorer.score("a game", ["one"]),
            scorer.score("x", ["y"]),
        ]
        return [scored.scores for scored in await asyncio.gather(*asked)]

    together = asyncio.run(talk())
    assert [len(scores) for scores in together] == [2, 1, 1]
    model = AutoModelForSequenceClassification.from_pretrained(found.folder, num_labels=1, dtype=torch.float32).eval()
    tokenizer = load_tokenizer(found.folder)
    prompt = encode_prompt(tokenizer, Row("", "a file", ""), system=None, template="Sum up: {input}", chat=True)
    for text, score in zip(("one", "two words"), together[0], strict=True):
        ids = [*prompt, *encode_target(tokenizer, text)]
        with torch.inference_mode():
            plain = float(model(torch.tensor([ids])).logits[0, 0])
        assert score == pytest.approx((plain - 0.5) / 2.0, abs=1e-3)


def test_what_is_too_long_is_refused_and_harms_nobody_else(runs_dir: Path, tmp_path: Path) -> None:
    scorer = RewardScorer(find_checkpoint(parse_spec("first:reward_model"), runs_dir, tmp_path), EngineOptions())

    async def talk() -> list[Any]:
        asked = (scorer.score("q", [text]) for text in ("file " * 300, "b"))
        return list(await asyncio.gather(*asked, return_exceptions=True))

    refused, scored = asyncio.run(talk())
    assert isinstance(refused, DataError)
    assert str(refused) == "the question and its longest answer have 628 tokens, and this model reads 256"
    assert len(scored.scores) == 1
    assert scored.checkpoint == "first:reward_model"
    assert scored.num_tokens > 2
