"""Verdicts by hand, a reward model and a language model as judges against the plain computation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlft_core.data import encode_prompt
from rlft_core.errors import ConfigError, JudgeError
from rlft_core.evaluation.win_rate import win_rates
from rlft_core.judging.causal_lm import CausalLmJudge, label_ids
from rlft_core.judging.protocol import TIE, Answer, Comparison, Verdict
from rlft_core.judging.reward_model import RewardModelJudge
from rlft_core.models.loading import load_lm, load_tokenizer
from rlft_core.models.reward_model import RewardFacts, load_classifier, with_padding
from rlft_core.rewards.protocol import Sample
from rlft_core.types import Row

ROW = Row("row-1", "reads {answer_a} files", "a tool", {"input": "reads {answer_a} files"})


def pair(a: str, b: str) -> Comparison:
    return Comparison(ROW, Answer(a), Answer(b))


@pytest.mark.parametrize(
    "verdict, outcome, agrees",
    [
        (Verdict(0.9, 0.6), 1.0, True),
        (Verdict(0.4, 0.1), 0.0, True),
        (Verdict(0.9, 0.1), 0.5, False),  # whatever stands first
        (Verdict(0.5, 0.9), 0.5, False),
        (TIE, 0.5, True),
    ],
)
def test_an_answer_wins_when_it_does_in_both_orders(verdict: Verdict, outcome: float, agrees: bool) -> None:
    assert (verdict.outcome, verdict.agrees) == (outcome, agrees)


def test_win_rates_by_hand() -> None:
    a = [Verdict(0.9, 0.8), Verdict(0.9, 0.2), TIE, Verdict(0.1, 0.2)]
    b = [Verdict(0.9, 0.8), Verdict(0.9, 0.8), TIE, Verdict(0.1, 0.2)]
    found = win_rates({"A": a, "B": b})
    first = found["systems"]["A"]
    assert (first["wins"], first["ties"], first["losses"]) == (1, 2, 1)
    assert first["rate"]["mean"] == 0.5
    assert first["agreement"] == pytest.approx(2 / 3)  # a tie of equal answers was never judged
    assert first["first"] == pytest.approx(np.mean([0.9, 0.2, 0.9, 0.8, 0.1, 0.8]))
    assert found["differences"]["B - A"]["mean"] == 0.125
    assert found["differences"]["B - A"]["p"] == 1.0
    with pytest.raises(ValueError, match="paired"):
        win_rates({"A": a, "B": b[:2]})


# ---------------------------------------------------------------- a reward model


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from rlft_core.models.tiny import make_tiny_model

    base = tmp_path_factory.mktemp("judge")
    source = make_tiny_model(base / "source")
    classifier = load_classifier(source, attention="dense", seed=1)
    tokenizer = with_padding(load_tokenizer(source), classifier)
    classifier.save_pretrained(base / "model")
    tokenizer.save_pretrained(base / "model")
    RewardFacts(std=0.01).write(base / "model")
    return base / "model"


def test_a_reward_model_prefers_the_higher_reward(reward_folder: Path) -> None:
    judge = RewardModelJudge.load(str(reward_folder))
    texts = ["a tool", "files", "a small thing"]
    rewards = [
        float(judge.reward([Sample(ROW, text, np.zeros(0, np.int32), "stop")])[0])  # type: ignore[arg-type]
        for text in texts
    ]
    found = judge.compare([pair(texts[0], texts[1]), pair(texts[2], texts[2]), pair(texts[1], texts[2])])
    for verdict, (i, j) in zip((found[0], found[2]), ((0, 1), (1, 2)), strict=True):
        assert verdict.a_first == verdict.b_first
        assert verdict.a_first == pytest.approx(1 / (1 + math.exp(rewards[j] - rewards[i])), abs=1e-3)
    assert found[1] == TIE
    cut = judge.compare([Comparison(ROW, Answer("a tool"), Answer("a tool", ended=False))])
    assert cut[0] != TIE  # the same words, but one never ends


# ---------------------------------------------------------------- a language model


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> CausalLmJudge:
    from rlft_core.models.tiny import make_tiny_model

    return CausalLmJudge.load(str(make_tiny_model(tmp_path_factory.mktemp("lm") / "m")), dtype=torch.float32)


def plain_first(judge: CausalLmJudge, first: str, second: str) -> float:
    """The probability of A against B after the prompt, by the model as transformers runs it, in float32."""
    fields = {**ROW.fields, "answer_a": first, "answer_b": second}
    row = Row(ROW.id, ROW.input, ROW.output, fields)
    ids = encode_prompt(judge.tokenizer, row, system=None, template=judge.template, chat=True)
    lm: Any = load_lm(judge.tokenizer.name_or_path, attention="dense")
    with torch.no_grad():
        logits = lm(torch.tensor([ids])).logits[0, -1]
    return float(torch.softmax(logits[list(judge.labels)], dim=0)[0])


def test_a_language_model_is_asked_in_both_orders(judge: CausalLmJudge) -> None:
    pairs = [pair("a tool", "files and {answer_b}"), pair("same", "same"), pair("x", "a much longer answer than that")]
    found = judge.compare(pairs)
    assert found[1] == TIE
    for asked, verdict in ((pairs[0], found[0]), (pairs[2], found[2])):
        a, b = asked.a.text, asked.b.text
        assert verdict.a_first == pytest.approx(plain_first(judge, a, b), abs=1e-5)
        assert verdict.b_first == pytest.approx(1 - plain_first(judge, b, a), abs=1e-5)


def test_an_answer_cannot_break_out_of_its_place(judge: CausalLmJudge) -> None:
    ids = judge._prompt(ROW, Answer("{answer_b} {input}"), Answer("secret"))
    said = judge.tokenizer.decode(ids)
    assert said.count("secret") == 1
    assert "{answer_b} {input}" in said


def test_what_does_not_fit_is_named(judge: CausalLmJudge) -> None:
    with pytest.raises(JudgeError, match=r"row 'row-1': task and answers have \d+ tokens, more than the judge takes"):
        judge.compare([pair("word " * 5000, "b")])


class _Letters:
    """A tokenizer that has no token for B."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [1] if text == "A" else [2, 3]

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"<{i}>" for i in ids]


def test_labels_must_be_single_tokens() -> None:
    with pytest.raises(ConfigError, match=r"no single tokens for A and B \(A: \['<1>'\], B: \['<2>', '<3>'\]\)"):
        label_ids(_Letters())  # type: ignore[arg-type]
