"""Minimal edits in a recipe: what is refused before anything starts, what is warned of, and what a stage then does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlft_core.config.recipe import Recipe
from rlft_core.config.rewards import RewardModelConfig
from rlft_core.config.stages import RewardModelStage
from rlft_core.errors import ConfigError, DataError, JudgeError, ModelError
from rlft_core.models.default_model import DEFAULT_MODEL, resolve_model
from rlft_core.models.loading import load_tokenizer
from rlft_core.models.reward_model import RewardFacts
from rlft_core.models.tiny import make_tiny_model
from rlft_core.plan import Plan, make_plan
from rlft_core.plan.judges import check_judges
from services.cli.generate import template_of
from services.pipeline.record import fingerprints
from services.pipeline.stage_online import check_tokenizers
from tests.unit.plan.parts import LAPTOP, recipe_in

TYPO = {"input": "x 1", "original": "answr 1", "edited": "answer 1"}


def recipe(base: Path, edits: dict[str, Any] | None, **reward: Any) -> Recipe:
    stages = [
        {"type": "sft"},
        {"type": "reward_model", "num_steps": 10, **({"edits": edits} if edits else {}), **reward},
        {"type": "ppo", "num_steps": 5, "rewards": [{"type": "reward_model"}]},
    ]
    return recipe_in(base, stages=stages)


def plan(base: Path, edits: dict[str, Any], **reward: Any) -> Plan:
    return make_plan(recipe(base, edits, **reward), base_dir=base, available=LAPTOP, encode=False)


def write(base: Path, *rows: dict[str, Any], name: str = "edits.jsonl") -> dict[str, Any]:
    (base / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"source": "file", "train": name}


def correct(row: Any, original: str) -> str:
    return original


def test_edits_in_a_file_are_read_before_anything_starts(base: Path) -> None:
    found = plan(base, write(base, TYPO), level="token")
    assert any("edits.validation is not given" in warning for warning in found.warnings)
    with pytest.raises(DataError, match=r"stages\.reward_model\.edits\.train: .*row edits:1: field 'original'"):
        plan(base, write(base, {"input": "x", "edited": "a"}))
    with pytest.raises(DataError, match=r"stages\.reward_model\.edits\.train: .*nowhere\.jsonl does not exist"):
        plan(base, {"source": "file", "train": "nowhere.jsonl"})


def test_edits_that_change_nothing_or_show_test_rows_are_warned_of(base: Path) -> None:
    edits = write(base, TYPO, {**TYPO, "original": "answer 1 "}, {**TYPO, "input": "text 105"})
    warnings = plan(base, {**edits, "validation": "edits.jsonl"}).warnings
    assert any("edits.train: 1 edits change nothing" in warning for warning in warnings)
    assert any("edits.train: 1 of 2 prompts are those of test rows" in warning for warning in warnings)


def test_a_function_and_an_editor_are_checked(base: Path) -> None:
    plan(base, {"source": "function", "function": f"{__name__}:correct"})
    with pytest.raises(ConfigError, match=r"stages\.reward_model\.edits: function 'nowhere:f': there is no module"):
        plan(base, {"source": "function", "function": "nowhere:f"})
    found = plan(base, {"source": "editor"})
    assert any("stages.reward_model first runs 1 engine(s)" in note for note in found.notes)
    with pytest.raises(ConfigError, match=r"edits\.template has no {original}"):
        plan(base, {"source": "editor", "template": "{input}"})
    with pytest.raises(DataError, match=r"stages\.reward_model\.edits\.template: .*{nothing}"):
        plan(base, {"source": "editor", "template": "{original} {nothing}"})
    with pytest.raises(ModelError, match=r"stages\.reward_model\.edits\.model: "):
        plan(base, {"source": "editor", "model": "./no_such_folder"})


def test_damaged_outputs_are_counted_like_negatives(base: Path) -> None:
    found = plan(base, {"source": "corrupted", "per_row": 2})
    assert found.stages[1].num_samples == 10 * 8 * 3
    stage = recipe(base, {"source": "corrupted"}).stage("reward_model")
    assert isinstance(stage, RewardModelStage)
    assert [kind.label for kind in stage.kinds] == ["typos", "hallucinated", "dropped", "doubled", "swapped"]


@pytest.mark.parametrize(
    "edits, reward, told",
    [
        (None, {"loss": "edited"}, "loss: edited looks at single tokens; set level to token"),
        (None, {"loss": "labels"}, "loss: labels looks at single tokens"),
        (
            None,
            {"level": "token", "loss": "labels", "margin": 1.0},
            "margin belongs to the losses bradley_terry and edited",
        ),
        ({"source": "corrupted"}, {"negatives": [{"kind": "typos"}]}, "give `negatives` or `edits`, not both"),
        ({"source": "guess"}, {}, r"edits\.source: there is no 'guess'; choose from file, corrupted, function, editor"),
        ({"source": "corrupted", "min_kept": 1.0}, {}, r"edits\.min_kept: must be less than 1"),
    ],
)
def test_what_does_not_go_together_is_refused(
    base: Path, edits: dict[str, Any] | None, reward: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        recipe(base, edits, **reward)


def test_keys_for_tokens_belong_to_models_of_tokens(base: Path) -> None:
    rewards = [{"type": "reward_model", "smooth": 1}]
    stages = [{"type": "reward_model"}, {"type": "ppo", "rewards": rewards}]
    with pytest.raises(ConfigError, match="smooth is for models that reward every token, and stage 'reward_model' has"):
        recipe_in(base, stages=stages)
    stages[0]["level"] = "token"
    assert recipe_in(base, stages=stages)


def test_a_critic_does_not_start_as_a_model_of_tokens(base: Path) -> None:
    critic = {"type": "gae", "critic": {"type": "model", "start_from": "reward_model"}}
    ppo = {"type": "ppo", "rewards": [{"type": "reward_model"}], "advantage": critic}
    assert recipe_in(base, stages=[{"type": "reward_model"}, ppo])
    with pytest.raises(ConfigError, match="start_from 'reward_model' rewards single tokens"):
        recipe_in(base, stages=[{"type": "reward_model", "level": "token"}, ppo])


def test_a_model_of_tokens_has_the_policys_tokenizer(tmp_path: Path) -> None:
    own, other = (make_tiny_model(tmp_path / name, vocab=size) for name, size in (("own", 384), ("other", 400)))
    rewards = [RewardModelConfig(model=str(own))]
    RewardFacts(level="token").write(own)
    check_tokenizers(load_tokenizer(own), rewards, where="stages.ppo.rewards")
    with pytest.raises(ConfigError, match=r"stages\.ppo\.rewards: reward 'reward_model' rewards single tokens, but"):
        check_tokenizers(load_tokenizer(other), rewards, where="stages.ppo.rewards")
    RewardFacts().write(own)
    check_tokenizers(load_tokenizer(other), rewards, where="stages.ppo.rewards")


def test_other_edits_are_another_stage(base: Path) -> None:
    edits = write(base, TYPO)
    before = fingerprints(recipe(base, edits), "model", base)
    write(base, TYPO, TYPO)
    after = fingerprints(recipe(base, edits), "model", base)
    assert before["sft"] == after["sft"]
    assert before["reward_model"] != after["reward_model"]
    assert before["ppo"] != after["ppo"]


PAIR = {"prompt": "x 1", "chosen": "a tool", "rejected": "no"}


def dpo(base: Path, pairs: dict[str, Any]) -> Recipe:
    stages = [{"type": "sft"}, {"type": "dpo", "num_steps": 10, "pairs": pairs}]
    return recipe_in(base, stages=[*stages, {"type": "evaluate", "systems": {"mle": "sft", "dpo": "dpo"}}])


def test_pairs_in_a_file_are_read_before_anything_starts(base: Path) -> None:
    edits = write(base, PAIR, {**PAIR, "prompt": "text 105"}, name="pairs.jsonl")
    found = make_plan(dpo(base, edits), base_dir=base, available=LAPTOP, encode=False)
    assert any("stages.dpo.pairs.train: 1 of 2 prompts are those of test rows" in warning for warning in found.warnings)
    assert (found.stages[1].num_samples, found.stages[1].starts_from) == (10 * 8 * 2, ("sft",))
    write(base, {"prompt": "x", "chosen": "a"}, name="pairs.jsonl")
    with pytest.raises(DataError, match=r"stages\.dpo\.pairs\.train: .*line 1: no field 'rejected'"):
        make_plan(dpo(base, edits), base_dir=base, available=LAPTOP, encode=False)


def test_pairs_of_samples_need_an_engine_first(base: Path) -> None:
    found = make_plan(dpo(base, {"source": "samples", "per_row": 3}), base_dir=base, available=LAPTOP, encode=False)
    assert found.stages[1].num_samples == 10 * 8 * 4
    assert any("stages.dpo first runs 1 engine(s)" in note for note in found.notes)


def test_other_pairs_are_another_stage(base: Path) -> None:
    pairs = write(base, PAIR, name="pairs.jsonl")
    before = fingerprints(dpo(base, pairs), "model", base)
    write(base, {**PAIR, "rejected": "never"}, name="pairs.jsonl")
    after = fingerprints(dpo(base, pairs), "model", base)
    assert (before["sft"] == after["sft"], before["dpo"] == after["dpo"]) == (True, False)


def judged(base: Path, pairs: dict[str, Any], **judge: Any) -> Recipe:
    return recipe_in(base, stages=[{"type": "sft", "judge": {"pairs": pairs, **judge}}])


def test_a_model_that_learns_to_judge_is_checked(base: Path) -> None:
    pairs = write(base, PAIR, name="pairs.jsonl")
    make_plan(judged(base, pairs), base_dir=base, available=LAPTOP, encode=False)
    with pytest.raises(
        ConfigError, match=r"stages\.sft\.judge\.template: judge template 'mine': there is no such file"
    ):
        make_plan(judged(base, pairs, template="mine"), base_dir=base, available=LAPTOP, encode=False)
    write(base, {"prompt": "x", "chosen": "a"}, name="pairs.jsonl")
    with pytest.raises(DataError, match=r"stages\.sft\.judge\.pairs\.train: .*no field 'rejected'"):
        make_plan(judged(base, pairs), base_dir=base, available=LAPTOP, encode=False)
    found = make_plan(judged(base, {"source": "samples"}), base_dir=base, available=LAPTOP, encode=False)
    assert any("stages.sft first runs 1 engine(s)" in note for note in found.notes)


def test_what_is_odd_about_pairs_is_told(base: Path) -> None:
    turned, equal = {**PAIR, "chosen": "no", "rejected": "a tool"}, {**PAIR, "rejected": "a tool "}
    pairs = write(base, PAIR, turned, equal, {**PAIR, "prompt": "x 2"}, name="pairs.jsonl")
    key = "stages.sft.judge.pairs"
    found = make_plan(judged(base, pairs), base_dir=base, available=LAPTOP, encode=False)
    assert [warning for warning in found.warnings if warning.startswith(key)] == [
        f"{key}.train: 1 of 4 pairs have no winner and will be left out",
        f"{key}.train: 1 pairs stand in both directions; they contradict each other",
        f"{key}: there is no `validation`, so nobody will know how often the better text is preferred; give a file of pairs",
    ]
    write(base, PAIR, {**PAIR, "prompt": "x 3"}, name="held.jsonl")
    found = make_plan(
        judged(base, {**pairs, "validation": "held.jsonl"}), base_dir=base, available=LAPTOP, encode=False
    )
    assert [warning for warning in found.warnings if warning.startswith(key)][2:] == [
        f"{key}.validation: 1 of 2 pairs are learned too, so they measure nothing"
    ]


def test_only_who_answers_pairs_fills_the_prompt_template_from_them(base: Path) -> None:
    """A judge reads a pair by its own template; columns of the rows need not be in the pairs."""
    pairs = write(base, PAIR, name="pairs.jsonl")
    template = {"data.prompt.template": "{family}: {input}"}
    for recipe_of, refused in ((judged, False), (dpo, True)):
        one = recipe_of(base, pairs)
        data = one.data.model_copy(
            update={"prompt": one.data.prompt.model_copy(update={"template": template.popitem()[1]})}
        )
        template = {"data.prompt.template": data.prompt.template}
        found = one.model_copy(update={"data": data})
        if refused:
            with pytest.raises(DataError, match=r"data\.prompt\.template \(a pair's prompt is {input}\): .* {family}"):
                make_plan(found, base_dir=base, available=LAPTOP, encode=False)
        else:
            make_plan(found, base_dir=base, available=LAPTOP, encode=False)


def test_a_judge_is_asked_as_it_learned_to_judge(base: Path) -> None:
    pairs = write(base, PAIR, name="pairs.jsonl")
    learns = {"type": "sft", "judge": {"pairs": pairs, "template": "faithful-summary"}}

    def warned(**judge: Any) -> list[str]:
        rewards = [{"type": "judge", **judge}]
        online = [{"type": "online_dpo", "name": name, "rewards": rewards} for name in ("first", "second")]
        found = make_plan(recipe_in(base, stages=[learns, *online]), base_dir=base, available=LAPTOP, encode=False)
        return [warning for warning in found.warnings if "let both have one template" in warning]

    told = "rewards, judge: asks by the template better-answer, and its model learns to judge by faithful-summary"
    assert [warning.partition(";")[0] for warning in warned()] == [
        f"stages.{name}.{told}" for name in ("first", "second")
    ]
    assert warned(template="faithful-summary") == []
    recipe = recipe_in(base, stages=[learns, {"type": "online_dpo", "rewards": [{"type": "judge"}]}])
    assert [template_of(recipe, stage) for stage in (None, "sft", "base")] == [
        *["faithful-summary"] * 2,
        "better-answer",
    ]
    assert warned(model="base") == []  # which never learned to judge


def test_a_judge_is_looked_at_where_there_is_no_tokenizer_too(base: Path) -> None:
    stages = [{"type": "online_dpo", "rewards": [{"type": "judge", "template": "nofile.yaml"}]}]
    with pytest.raises(
        ConfigError, match=r"stages\.online_dpo\.rewards, judge: judge template 'nofile\.yaml': there is no such"
    ):
        make_plan(recipe_in(base, stages=stages), base_dir=base, available=LAPTOP, encode=False)


def test_reasons_need_their_columns_and_a_template_that_has_a_place_for_them(base: Path) -> None:
    pairs = write(base, {**PAIR, "why": "short", "why_not": "long"}, name="pairs.jsonl")
    given = {**pairs, "rationale_fields": ["why", "why_not"]}
    make_plan(judged(base, given), base_dir=base, available=LAPTOP, encode=False)
    with pytest.raises(DataError, match=r"judge\.pairs\.train: .*field 'whynot' is missing or no text"):
        make_plan(
            judged(base, {**pairs, "rationale_fields": ["why", "whynot"]}),
            base_dir=base,
            available=LAPTOP,
            encode=False,
        )
    (base / "own.yaml").write_text("user: '{context} {response_a} {response_b}'\nlabels: [' A', ' B']\n")
    with pytest.raises(ConfigError, match=r"own\.yaml' has no `rationale`"):
        make_plan(judged(base, given, template="own.yaml"), base_dir=base, available=LAPTOP, encode=False)


def test_labels_that_are_no_single_tokens_are_found_by_the_check(base: Path) -> None:
    tokenizer = load_tokenizer(resolve_model(DEFAULT_MODEL))
    pairs = write(base, PAIR, name="pairs.jsonl")
    check_judges(judged(base, pairs), tokenizer, base)
    own = "user: '{context} {response_a} {response_b}'\nlabels: [the former answer, the latter answer]\n"
    (base / "own.yaml").write_text(own)
    with pytest.raises(JudgeError, match=r"stages\.sft\.judge\.template: .*no 2 single tokens"):
        check_judges(judged(base, pairs, template="own.yaml"), tokenizer, base)
