"""Verdicts by hand, a reward model and a language model as judges against the plain computation."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlft_core.batching.sharing import share_beginnings
from rlft_core.errors import ConfigError, JudgeError
from rlft_core.evaluation.win_rate import win_rates
from rlft_core.judging.causal_lm import CausalLmJudge
from rlft_core.judging.protocol import TIE, Answer, Comparison, Verdict, over_principles
from rlft_core.judging.questions import Questioner, Tokens
from rlft_core.judging.reward_model import RewardModelJudge
from rlft_core.judging.rows import TOO_LONG, judge_rows, without_equal
from rlft_core.judging.template import JudgeTemplate, load_template, parse_template
from rlft_core.models.default_model import DEFAULT_MODEL, resolve_model
from rlft_core.models.loading import load_lm, load_tokenizer
from rlft_core.models.reward_model import RewardFacts, load_classifier, with_padding
from rlft_core.negatives import Contrast, Negative
from rlft_core.rewards.protocol import Sample
from rlft_core.types import Row

ROW = Row("row-1", "reads {response_a} files", "a tool", {"input": "reads {response_a} files"})


def pair(a: str, b: str) -> Comparison:
    return Comparison(ROW, Answer(a), Answer(b))


def verdict(a_first: float, b_first: float) -> Verdict:
    """A verdict whose probabilities of `a` are these."""
    return Verdict((a_first, 1.0 - a_first), (b_first, 1.0 - b_first))


@pytest.mark.parametrize(
    "found, outcome, preferred, agrees",
    [
        (verdict(0.9, 0.6), 1.0, 1.0, True),
        (verdict(0.4, 0.1), 0.0, 0.0, True),
        (verdict(0.9, 0.2), 0.5, 1.0, False),  # whatever stands first, but a more than b
        (verdict(0.9, 0.1), 0.5, 0.5, False),
        (verdict(0.5, 0.9), 0.5, 1.0, False),
        (TIE, 0.5, 0.5, True),
    ],
)
def test_an_answer_wins_when_it_does_in_both_orders(
    found: Verdict, outcome: float, preferred: float, agrees: bool
) -> None:
    assert (found.outcome, found.preferred, found.agrees) == (outcome, preferred, agrees)


def test_scores_by_hand() -> None:
    found = Verdict((0.5, 0.2), (0.1, 0.3))  # the rest went to other tokens
    assert found.scores == pytest.approx((0.3, 0.25))
    assert found.preferred == 1.0
    assert found.outcome == 0.5
    assert found.first == pytest.approx((0.5 / 0.7 + 0.3 / 0.4) / 2)


def test_principles_are_counted_and_then_weighed() -> None:
    a, b = verdict(0.9, 0.9), verdict(0.4, 0.4)
    assert over_principles([a, a, b]) == 1.0
    assert over_principles([b, b, a]) == 0.0
    assert over_principles([a, b]) == 1.0  # one each, but a wins by more
    assert over_principles([a, verdict(0.1, 0.1)]) == 0.5
    assert over_principles([TIE, b]) == 0.0
    with pytest.raises(ValueError, match="no verdict"):
        over_principles([])


def test_win_rates_by_hand() -> None:
    a = [verdict(0.9, 0.8), verdict(0.9, 0.2), TIE, verdict(0.1, 0.2)]
    b = [verdict(0.9, 0.8), verdict(0.9, 0.8), TIE, verdict(0.1, 0.2)]
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
    for one, (i, j) in zip((found[0], found[2]), ((0, 1), (1, 2)), strict=True):
        likely = 1 / (1 + math.exp(rewards[j] - rewards[i]))
        assert one.a_first == one.b_first == pytest.approx((likely, 1 - likely), abs=1e-3)
    assert found[1] == TIE
    cut = judge.compare([Comparison(ROW, Answer("a tool"), Answer("a tool", ended=False))])
    assert cut[0] != TIE  # the same words, but one never ends
    broken = RewardModelJudge(lambda samples: [math.nan, 1.0])  # type: ignore[arg-type]
    for one in (pair("a", "b"), pair("b", "a")):
        with pytest.raises(
            JudgeError, match="row 'row-1': the reward model gave a score that is no number; its weights are broken"
        ):
            broken.compare([one])


# ---------------------------------------------------------------- a language model


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> CausalLmJudge:
    from rlft_core.models.tiny import make_tiny_model

    return CausalLmJudge.load(str(make_tiny_model(tmp_path_factory.mktemp("lm") / "m")), dtype=torch.float32)


def plain_labels(judge: CausalLmJudge, first: str, second: str) -> tuple[float, float]:
    """The probabilities of both labels after the prompt, by the model as transformers runs it, in float32."""
    asked = judge.questions
    ids = asked.template.prompt(asked.medium.tokenizer, ROW.input, first, second, principle=asked.principles[0])
    lm: Any = load_lm(asked.medium.tokenizer.name_or_path, attention="dense")
    with torch.no_grad():
        chances = torch.softmax(lm(torch.tensor([ids])).logits[0, -1], dim=0)
    return float(chances[asked.labels[0]]), float(chances[asked.labels[1]])


def test_a_language_model_is_asked_in_both_orders(judge: CausalLmJudge) -> None:
    pairs = [
        pair("a tool", "files and {response_b}"),
        pair("same", "same"),
        pair("x", "a much longer answer than that"),
    ]
    found = judge.compare(pairs)
    assert found[1] == TIE
    for asked, one in ((pairs[0], found[0]), (pairs[2], found[2])):
        a, b = asked.a.text, asked.b.text
        assert one.a_first == pytest.approx(plain_labels(judge, a, b), abs=1e-6)
        assert one.b_first == pytest.approx(plain_labels(judge, b, a)[::-1], abs=1e-6)


def test_comparisons_of_one_task_begin_once(judge: CausalLmJudge) -> None:
    long = replace(ROW, input="a task that says at some length what is to be done " * 6)
    pairs = [Comparison(long, Answer("a tool"), Answer(text)) for text in ("no tool", "a fork", "two spoons")]
    (group,) = share_beginnings([(prompt, [0]) for prompt in judge.questions.prompts(pairs)])
    assert len(group.completions) == 6
    for together, one in zip(judge.compare(pairs), pairs, strict=True):
        (alone,) = judge.compare([one])
        assert together.a_first == pytest.approx(alone.a_first, abs=1e-6)
        assert together.b_first == pytest.approx(alone.b_first, abs=1e-6)


def test_an_answer_cannot_break_out_of_its_place(judge: CausalLmJudge) -> None:
    ids, _ = judge.questions.prompts([pair("{response_b} {context}", "secret")])
    said = judge.questions.medium.tokenizer.decode(ids)
    assert said.count("secret") == 1
    assert "{response_b} {context}" in said


def test_what_does_not_fit_is_cut_by_rule_and_counted(judge: CausalLmJudge) -> None:
    template = parse_template("t", {"user": "{context}|{response_a}|{response_b}|", "labels": ["A", "B"]})
    tokenizer = judge.questions.medium.tokenizer
    room = len(template.prompt(tokenizer, "", "", "", principle="")) + 40

    def said(context: str, a: str, b: str) -> str:
        asked = Questioner.of(template, Tokens(tokenizer), max_length=room)
        comparison = Comparison(Row("row-1", context, "", {}), Answer(a), Answer(b))
        prompts = asked.prompts([comparison])
        assert all(len(prompt) <= room for prompt in prompts)
        assert asked.num_truncated == 1
        assert asked.prompts([comparison]) == prompts
        return str(tokenizer.decode(prompts[0]))

    # First the task, from its end ...
    cut = said("one two three " * 30, "an answer", "another")
    assert "one two three" in cut
    assert "|an answer|another|" in cut
    # ... then both answers, to one length.
    cut = said("task", "first " * 200, "last " * 200)
    assert "task" not in cut
    assert abs(cut.count("first") - cut.count("last")) <= 4
    assert cut.count("first") > 0
    with pytest.raises(JudgeError, match=r"row 'row-1': the judge's template 't' alone is longer than the 3 tokens"):
        Questioner.of(template, Tokens(tokenizer), max_length=3).prompts([pair("a", "b")])


def test_several_principles_are_one_verdict(judge: CausalLmJudge) -> None:
    template = parse_template(
        "t",
        {
            "user": "{context} {response_a} {response_b} {principle}",
            "labels": ["A", "B"],
            "principles": {"x": "", "y": ""},
        },
    )
    asked = Questioner.of(template, Tokens(judge.questions.medium.tokenizer), max_length=500)
    pairs = [pair("a", "b"), pair("c", "c"), pair("d", "e")]
    assert len(asked.prompts(pairs)) == 2 * 2 * 2
    found = asked.verdicts(pairs, [(0.9, 0.1), (0.2, 0.8), (0.3, 0.7), (0.5, 0.4), *[(0.5, 0.5)] * 4])
    assert found[0].principles == (Verdict((0.9, 0.1), (0.8, 0.2)), Verdict((0.3, 0.7), (0.4, 0.5)))
    assert found[0].a_first == pytest.approx((0.6, 0.4))
    assert found[0].b_first == pytest.approx((0.6, 0.35))
    assert found[0].preferred == 1.0  # one principle each, but the first by more
    assert found[1] == TIE
    one = Questioner.of(template, Tokens(judge.questions.medium.tokenizer), principles=["y"], max_length=500)
    assert len(one.prompts(pairs)) == 2 * 2
    with pytest.raises(ConfigError, match=r"judge template 't' has no principle 'z'; there are: 'x', 'y'"):
        Questioner.of(template, Tokens(judge.questions.medium.tokenizer), principles=["z"], max_length=500)


# ---------------------------------------------------------------- templates


def test_a_principle_is_named_and_explained(judge: CausalLmJudge) -> None:
    template = load_template("faithful-summary")
    assert list(template.principles) == ["faithfulness", "coverage", "conciseness"]
    ids = template.prompt(judge.questions.medium.tokenizer, "the text", "one", "two", principle="coverage")
    said = judge.questions.medium.tokenizer.decode(ids)
    assert "what matters most in the text" in said
    assert "the principle of 'coverage'" in said
    assert "Summary A: one\n\nSummary B: two\n" in said
    assert said.endswith("Decision: Summary")


@pytest.mark.parametrize("name", ["helpful-harmless", "instruction-following", "faithful-summary", "better-answer"])
def test_templates_that_come_with_rlft_suit_the_default_model(name: str) -> None:
    folder = resolve_model(DEFAULT_MODEL)
    tokenizer = load_tokenizer(folder)
    template = load_template(name)
    labels = template.label_ids(tokenizer)
    assert tokenizer.convert_ids_to_tokens(list(labels)) == [label.replace(" ", "Ġ") for label in template.labels]


def test_pairs_become_rows_in_both_orders() -> None:
    template, tokenizer = load_template("instruction-following"), load_tokenizer(resolve_model(DEFAULT_MODEL))
    contrast = Contrast(ROW, (Negative("rejected", "no tool"),))
    skipped: Counter[str] = Counter()
    (found,) = judge_rows([contrast], template, tokenizer, max_length=2000, skipped=skipped)
    assert len(found) == 2 * len(template.principles)
    labels = template.label_ids(tokenizer)
    for number, principle in enumerate(template.principles):
        (first, a), (second, b) = found[2 * number : 2 * number + 2]
        assert (a, b) == ([labels[0]], [labels[1]])  # the preferred one stands first, then second
        for ids, order in ((first, ("a tool", "no tool")), (second, ("no tool", "a tool"))):
            assert f"Response A: {order[0]}\n\nResponse B: {order[1]}\n" in tokenizer.decode(ids)
            assert f"the principle of '{principle}'" in tokenizer.decode(ids)
    short = judge_rows([contrast], template, tokenizer, max_length=30, skipped=skipped)
    assert (short, skipped) == ([], {TOO_LONG: 8})


def test_pairs_of_equal_texts_have_no_winner() -> None:
    texts = ("no tool", f" {ROW.output}\n", "other")
    contrasts = [Contrast(ROW, tuple(Negative("rejected", text) for text in texts)), Contrast(ROW, ())]
    found, num_equal = without_equal(contrasts)
    assert [[negative.text for negative in contrast.negatives] for contrast in found] == [["no tool", "other"], []]
    assert num_equal == 1


def test_comparisons_of_one_task_are_together() -> None:
    template, tokenizer = load_template("better-answer"), load_tokenizer(resolve_model(DEFAULT_MODEL))
    others = [Row("s", "another task", "a spoon", {}), Row("t", ROW.input, "a hammer", {})]
    contrasts = [
        Contrast(ROW, (Negative("rejected", "no tool"), Negative("rejected", "a fork"))),
        Contrast(others[1], (Negative("rejected", "no hammer"),)),
        Contrast(others[0], (Negative("rejected", "no spoon"),)),
    ]
    found = judge_rows(contrasts, template, tokenizer, max_length=400, skipped=Counter())
    assert [len(family) for family in found] == [6, 2]
    assert all(ROW.input in tokenizer.decode(prompt) for prompt, _ in found[0])
    long = Contrast(others[0], (Negative("rejected", "no spoon " * 400),))
    assert judge_rows([long], template, tokenizer, max_length=400, skipped=Counter()) == []


def test_reasons_follow_the_judgement_and_do_not_move_it() -> None:
    tokenizer = load_tokenizer(resolve_model(DEFAULT_MODEL))
    template = load_template("better-answer")
    row = Row("r", "task", "a tool", {"good": "says {rationale_b} it all", "bad": "is vague"})
    contrast = Contrast(row, (Negative("rejected", "no tool"),))
    skipped: Counter[str] = Counter()
    (plain,) = judge_rows([contrast], template, tokenizer, max_length=400, skipped=skipped)
    (found,) = judge_rows(
        [contrast], template, tokenizer, max_length=400, skipped=skipped, rationale_fields=("good", "bad")
    )
    assert [prompt for prompt, _ in found] == [prompt for prompt, _ in plain]
    assert [target[:1] for _, target in found] == [target for _, target in plain]
    (_, first), (_, second) = found
    good, bad = "says {rationale_b} it all", "is vague"
    assert tokenizer.decode(first[1:-1]) == f"\n\nEvaluation of Answer A: {good}\n\nEvaluation of Answer B: {bad}"
    assert tokenizer.decode(second[1:-1]) == f"\n\nEvaluation of Answer A: {bad}\n\nEvaluation of Answer B: {good}"
    assert first[-1] == second[-1] == tokenizer.eos_token_id
    longest = max(len(prompt) + len(target) for prompt, target in found)
    keys: dict[str, Any] = {"skipped": skipped, "rationale_fields": ("good", "bad")}
    (fitting,) = judge_rows([contrast], template, tokenizer, max_length=longest, **keys)
    assert len(fitting) == 2
    assert judge_rows([contrast], template, tokenizer, max_length=longest - 1, **keys) == []


class _Letters:
    """A tokenizer that has no token for B."""

    def encode(self, text: str, **_: Any) -> list[int]:
        return [ord(letter) for letter in text.replace("B", "bb")]

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [chr(i) for i in ids]


def test_labels_must_be_single_tokens() -> None:
    template = JudgeTemplate("mine", "{context}{response_a}{response_b}", "So", ("A", "B"))
    with pytest.raises(
        JudgeError, match=r"'mine': its labels are no 2 single tokens .*'A': \['A'\], 'B': \['b', 'b'\]"
    ):
        template.label_ids(_Letters())  # type: ignore[arg-type]


GOOD = {"user": "{context}{response_a}{response_b}", "labels": ["A", "B"]}


@pytest.mark.parametrize(
    "content, told",
    [
        ({"user": "{context}"}, "needs `user` and `labels`"),
        (GOOD | {"labels": ["A"]}, "labels must be two texts"),
        (GOOD | {"user": "{context}{response_a}"}, r"has no {response_b}"),
        (GOOD | {"anwser": "x"}, "unknown key 'anwser'"),
        (GOOD | {"principles": ["a"]}, "principles must be texts by name"),
        (GOOD | {"principles": {"short": "is short"}}, r"shows neither {principle} nor {principle_text}"),
        (
            GOOD | {"user": "{question}{context}{response_a}{response_b}"},
            r"nothing fills {question}; .* {context}, .* brace",
        ),
        (GOOD | {"answer": ["A"]}, r"answer must be text \(got \['A'\]\)"),
        (GOOD | {"rationale": "{rationale_a}{rationale_b}{context}"}, "nothing else is filled there"),
    ],
)
def test_a_wrong_template_says_what_is_wrong(content: dict[str, Any], told: str) -> None:
    assert parse_template("mine", GOOD).labels == ("A", "B")
    with pytest.raises(ConfigError, match=told):
        parse_template("mine", content)


def test_a_template_is_a_file_or_one_of_ours(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("user: '{context} {response_a} {response_b}'\nlabels: ['1', '2']\n")
    assert load_template("mine.yaml", base_dir=tmp_path).labels == ("1", "2")
    with pytest.raises(ConfigError, match=r"there is no such file, and rlft's own are better-answer, faithful-summary"):
        load_template("yours.yaml", base_dir=tmp_path)
    (tmp_path / "bad.yaml").write_text("user: [")
    with pytest.raises(ConfigError, match="not YAML"):
        load_template("bad.yaml", base_dir=tmp_path)
