"""What a wrong recipe is told: the message names the key and the value, and says what to do instead."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from rlft_core.config.load import load_recipe, parse_recipe
from rlft_core.errors import ConfigError

REWARD = {"type": "ends_properly"}


def recipe(**changes: Any) -> dict[str, Any]:
    """A small recipe that is right, with some of its sections replaced."""
    base: dict[str, Any] = {
        "data": {"train": "rows.jsonl", "test": 10},
        "stages": [
            {"type": "sft"},
            {"type": "ppo", "rewards": [REWARD]},
            {"type": "evaluate", "systems": {"rl": "ppo"}},
        ],
    }
    return {**copy.deepcopy(base), **changes}


def ppo(**changes: Any) -> dict[str, Any]:
    return recipe(stages=[{"type": "ppo", "rewards": [REWARD], **changes}])


def sft(**changes: Any) -> dict[str, Any]:
    return recipe(stages=[{"type": "sft", **changes}])


def refusal(content: dict[str, Any], *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_recipe(content, overrides, source="my.yaml")
    return str(caught.value)


def test_the_recipe_these_tests_break_is_right() -> None:
    parsed = parse_recipe(recipe())
    assert [stage.name for stage in parsed.stages] == ["sft", "ppo", "evaluate"]


CASES: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    # Keys
    ("misspelt section", recipe(modle={}), ("modle: unknown key", "did you mean 'model'?")),
    ("misspelt key", ppo(num_step=3), ("stages.ppo.num_step: unknown key", "did you mean 'num_steps'?")),
    ("key too high up", ppo(lr=1e-4), ("stages.ppo.lr: unknown key", "it belongs to 'stages.ppo.optimizer.lr'")),
    ("key nowhere", recipe(model={"zzz": 1}), ("model.zzz: unknown key", "the keys here are: name, dtype")),
    (
        "key of a nested section",
        sft(learner={"freeze": {"bottom_layer": 3}}),
        ("freeze.bottom_layer", "'bottom_layers'"),
    ),
    ("missing key", recipe(data={}), ("data.train: is missing and has no default", "File of training rows")),
    ("missing section", {"stages": [{"type": "sft"}]}, ("data: is missing", "The rows")),
    ("missing rewards", recipe(stages=[{"type": "ppo"}]), ("stages.ppo.rewards: is missing", "What is rewarded")),
    ("no stages", recipe(stages=[]), ("stages:", "at least 1 item")),
    # Types of values
    ("number for text", recipe(name=2024), ("name: must be a valid string", "got 2024", "in quotes")),
    ("yes read as true", recipe(name=True), ("name:", "got True", "in quotes")),
    ("text for a number", ppo(num_steps="many"), ("stages.ppo.num_steps: must be a valid integer", "got 'many'")),
    ("text in a list", sft(optimizer={"betas": [0.9, "x"]}), ("stages.sft.optimizer.betas.1:", "got 'x'")),
    (
        "braces without quotes",
        recipe(data={"train": "a", "prompt": {"template": {"input": None}}}),
        ("template", "in quotes"),
    ),
    ("section that is a number", recipe(model=3), ("model: must hold keys of its own", "got 3")),
    ("stage that is text", recipe(stages=["sft"]), ("stages.0: must hold keys of its own", "got 'sft'")),
    (
        "list for a split",
        recipe(data={"train": "a", "test": []}),
        ("data.test: must be text, a whole number or a number",),
    ),
    (
        "modules that are a number",
        recipe(model={"lora": {"target_modules": 3}}),
        ("target_modules: must be text or a list",),
    ),
    ("system that is a list", ppo(sampling={"max_tokens": [3]}), ("stages.ppo.sampling.max_tokens", "got [3]")),
    # Ranges
    ("no steps", ppo(num_steps=0), ("stages.ppo.num_steps: must be greater than 0 (got 0)",)),
    ("negative weight decay", sft(optimizer={"weight_decay": -1}), ("optimizer.weight_decay", "got -1")),
    ("share above one", ppo(rollout={"gpu_memory_share": 1.5}), ("rollout.gpu_memory_share", "got 1.5")),
    ("clip of one", ppo(clip={"low": 1.0}), ("stages.ppo.clip.low: must be less than 1 (got 1.0)",)),
    ("temperature of zero", ppo(sampling={"temperature": 0}), ("sampling.temperature: must be greater than 0",)),
    ("dual clip of one half", ppo(clip={"dual": 0.5}), ("stages.ppo.clip.dual: must be greater than 1",)),
    # Choices
    (
        "unknown stage",
        recipe(stages=[{"type": "sfft"}]),
        ("there is no 'sfft'", "did you mean 'sft'?", "sft, reward_model, ppo, online_dpo, dpo, evaluate"),
    ),
    (
        "stage without a type",
        recipe(stages=[{"num_steps": 3}]),
        ("stages.0: needs `type`, one of sft, reward_model, ppo, online_dpo, dpo, evaluate",),
    ),
    (
        "one sample makes no pair",
        recipe(stages=[{"type": "online_dpo", "samples_per_prompt": 1}]),
        ("samples_per_prompt is 1", "at least 2"),
    ),
    (
        "a judge that changes while it judges",
        recipe(stages=[{"type": "online_dpo", "max_lag": 1, "rewards": [{"type": "judge", "model": "policy"}]}]),
        ("judge 'judge' is the policy itself", "max_lag 1 it would change", "model: start"),
    ),
    (
        "the best by a loss of what is not learned",
        sft(
            keep="best",
            validate_every=5,
            judge={"pairs": {"source": "file", "train": "pairs.jsonl"}, "template": "better-answer", "imitate": False},
        ),
        (
            "keep: best compares losses of outputs",
            "judge.imitate: false does not learn",
            "leave it out, or imitate too",
        ),
    ),
    (
        "smoothing of a loss that has none",
        recipe(
            stages=[{"type": "online_dpo", "rewards": [REWARD], "preference": {"loss": "ipo", "label_smoothing": 0.1}}]
        ),
        ("label_smoothing is for loss: dpo", "leave it out with ipo"),
    ),
    (
        "frozen layers beside an adapter",
        sft(learner={"freeze": {"embeddings": True}}) | {"model": {"lora": {"rank": 8}}},
        ("learner.freeze has no effect with model.lora", "leave it out, or set it to {}"),
    ),
    (
        "a judge that no engine holds",
        recipe(
            stages=[{"type": "online_dpo", "sample_from": "start", "rewards": [{"type": "judge", "model": "policy"}]}]
        ),
        ("judge 'judge' is the policy itself", "sample_from: start no engine holds it"),
    ),
    (
        "watch of engines that hold the start",
        recipe(stages=[{"type": "online_dpo", "sample_from": "start", "watch": {"every": 2}}]),
        ("watch looks at what the engines hold", "leave out one"),
    ),
    ("unknown reward", ppo(rewards=[{"type": "rulez"}]), ("rewards.rulez.type: there is no 'rulez'", "'rules'")),
    (
        "unknown check",
        ppo(rewards=[{"type": "rules", "checks": [{"check": "max_char"}]}]),
        ("rewards.rules.checks.max_char.check: there is no 'max_char'", "did you mean 'max_chars'?"),
    ),
    (
        "key of a check",
        ppo(rewards=[{"type": "rules", "checks": [{"check": "words", "mx": 2}]}]),
        ("stages.ppo.rewards.rules.checks.words.mx: unknown key", "did you mean 'max'?"),
    ),
    (
        "check inside all_of",
        ppo(
            rewards=[{"type": "rules", "checks": [{"check": "all_of", "checks": [{"check": "regex", "pattern": "("}]}]}]
        ),
        ("rewards.rules.checks.all_of.checks.regex.pattern: '(' is not a regular expression",),
    ),
    ("unknown advantage", ppo(advantage={"type": "grppo"}), ("stages.ppo.advantage.type", "'grpo'", "rloo")),
    ("key of another advantage", ppo(advantage={"type": "rloo", "lam": 1}), ("stages.ppo.advantage.lam: unknown key",)),
    (
        "inside the critic",
        ppo(advantage={"type": "gae", "critic": {"type": "model", "epochs": 0}}),
        ("stages.ppo.advantage.critic.epochs: must be greater than 0",),
    ),
    (
        "unknown precision",
        recipe(model={"dtype": "float16"}),
        ("model.dtype", "'bfloat16' or 'float32'", "got 'float16'"),
    ),
    ("unknown estimator", ppo(kl={"estimator": "k4"}), ("stages.ppo.kl.estimator", "'k1', 'k2' or 'k3'")),
    ("unknown schedule", sft(optimizer={"schedule": "linaer"}), ("optimizer.schedule", "did you mean 'linear'?")),
    ("unknown tracker", recipe(tracking={"sinks": ["wandbb"]}), ("tracking.sinks.0", "did you mean 'wandb'?")),
    # Values that do not fit together
    ("sizes", ppo(prompts_per_step=6, minibatches=4), ("prompts_per_step (6)", "minibatches (4)", "a multiple of 4")),
    (
        "rows over ranks",
        sft(batch_rows=7, learner={"num_ranks": 2}),
        ("batch_rows (7)", "learner.num_ranks (2)", "multiple"),
    ),
    ("group of one", ppo(samples_per_prompt=1), ("samples_per_prompt is 1", "'rloo'", "advantage.type 'gae'")),
    ("context", recipe(model={"max_length": 400}), ("data.max_prompt_tokens (384)", "model.max_length (400)", "raise")),
    (
        "row budget",
        sft(learner={"max_row_tokens": 100}),
        ("learner.max_row_tokens (100)", "model.max_length (512)", "raise"),
    ),
    ("same name twice", recipe(stages=[{"type": "sft"}, {"type": "sft"}]), ("stages[1] (sft)", "`name` of its own")),
    ("stage called base", sft(name="base"), ("stages[0] (base)", "not 'base'")),
    ("name with a slash", recipe(name="a/b"), ("name 'a/b'", "it becomes a folder")),
    ("unknown start", sft(start_from="warmup"), ("'warmup' is no earlier training stage", "there are: base")),
    (
        "system of the future",
        recipe(stages=[{"type": "evaluate", "systems": {"rl": "ppo"}}]),
        ("stages[0] (evaluate)", "'ppo' is no earlier training stage", "there are: base"),
    ),
    (
        "no rows to evaluate on",
        recipe(data={"train": "a"}, stages=[{"type": "evaluate", "systems": {"b": "base"}}]),
        ("needs data.test", "a number of rows to set aside"),
    ),
    (
        "freezing under adapters",
        {**sft(learner={"freeze": {"embeddings": True}}), "model": {"lora": {}}},
        ("learner.freeze has no effect with model.lora",),
    ),
    ("two rewards of one name", ppo(rewards=[REWARD, REWARD]), ("stages.ppo.rewards", "another `name`")),
    ("no rewards", ppo(rewards=[]), ("stages.ppo.rewards", "needs at least one reward")),
    ("length without bounds", ppo(rewards=[{"type": "length"}]), ("stages.ppo.rewards.length:", "needs `min`, `max`")),
    ("function", ppo(rewards=[{"type": "custom", "function": "f"}]), ("rewards.custom.function", "got 'f'")),
]


@pytest.mark.parametrize("content, named", [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_wrong_recipe_is_told_what_and_where(content: dict[str, Any], named: tuple[str, ...]) -> None:
    message = refusal(content)
    assert message.startswith("my.yaml has a problem:\n"), message
    for part in named:
        assert part in message


def test_every_problem_is_listed_and_union_tags_are_not_keys() -> None:
    content = recipe(
        stages=[{"type": "ppo", "rewards": [{"type": "format", "mode": "some"}], "num_steps": -1}], nme="x"
    )
    lines = refusal(content).splitlines()
    assert lines[0] == "my.yaml has 3 problems:"
    assert sorted(line.split(":")[0].strip() for line in lines[1:]) == [
        "nme",
        "stages.ppo.num_steps",
        "stages.ppo.rewards.format.mode",
    ]


def test_a_wrong_item_does_not_make_its_list_too_short() -> None:
    assert refusal(recipe(stages=[{"type": "sft", "num_steps": 0}])).count("\n") == 1


def test_items_that_share_a_name_are_named_by_index() -> None:
    stages = [{"type": "sft", "num_steps": 0}, {"type": "sft", "num_steps": 5}]
    assert "stages.0.num_steps: must be greater than 0" in refusal(recipe(stages=stages))


def test_a_long_value_is_cut() -> None:
    assert len(refusal(recipe(name=["x" * 5000]))) < 300


@pytest.mark.parametrize(
    "override, named",
    [
        ("stages.ppo.num_steps", ("--set stages.ppo.num_steps", "a.b=value")),
        ("=3", ("--set =3", "a.b=value")),
        ("a..b=3", ("a.b=value",)),
        ("name=[1", ("--set name=[1", "not valid YAML")),
        ("name={a: 1, a: 2}", ("not valid YAML", "'a' is given twice")),
        ("stages.pqo.num_steps=3", ("stages.pqo names no item", "there are: sft, ppo, evaluate")),
        ("stages.7.num_steps=3", ("stages.7 names no item", "sft, ppo, evaluate")),
        ("data.train.deeper=3", ("data.train is 'rows.jsonl', which has no keys",)),
        ("stages.ppo.num_step=3", ("stages.ppo.num_step: unknown key", "'num_steps'")),
        ("modle.name=x", ("modle: unknown key", "'model'")),
        ("stages.ppo.num_steps=-2", ("stages.ppo.num_steps", "got -2")),
        ("stages.ppo.rewards.0=5", ("stages.ppo.rewards.0: must hold keys of its own", "got 5")),
    ],
)
def test_a_wrong_override_is_told_what_and_where(override: str, named: tuple[str, ...]) -> None:
    message = refusal(recipe(), override)
    for part in named:
        assert part in message


def test_an_override_of_a_name_that_two_items_have_asks_for_an_index() -> None:
    rewards = [{"type": "regex", "pattern": "a"}, {"type": "regex", "pattern": "b"}]
    message = refusal(ppo(rewards=rewards), "stages.ppo.rewards.regex.weight=2")
    assert "names 2 items" in message
    assert "index" in message


@pytest.mark.parametrize(
    "text, named",
    [
        ("", ("must hold keys", "it is empty")),
        ("- a\n- b\n", ("must hold keys", "not list")),
        ("data: {train: a\n", ("is not valid YAML",)),
        ("name: a\nname: b\n", ("line 2: 'name' is given twice", "keep one of them")),
        ("data:\n  train: a\n  train: b\n", ("line 3: 'train' is given twice",)),
        ("name: !!python/object:os.system {}\n", ("is not valid YAML",)),
    ],
    ids=["empty", "a list", "not closed", "key twice", "inner key twice", "a Python object"],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, named: tuple[str, ...]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert "bad.yaml" in str(caught.value)
    for part in named:
        assert part in str(caught.value)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.yaml is not valid YAML"):
        load_recipe(path)


def test_a_file_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("name: a")
    with pytest.raises(ConfigError, match=r"quickstrat\.yaml does not exist; did you mean .*quickstart\.yaml"):
        load_recipe(tmp_path / "quickstrat.yaml")
    with pytest.raises(ConfigError, match=r"other\.yaml does not exist; that folder has quickstart\.yaml"):
        load_recipe(tmp_path / "other.yaml")
    with pytest.raises(ConfigError, match=r"is a folder; give a file such as .*quickstart\.yaml"):
        load_recipe(tmp_path)


def test_adapters_and_lag_do_not_go_together() -> None:
    message = refusal(recipe(), "model.lora.rank=4", "stages.ppo.max_lag=1")
    assert "max_lag (1)" in message
    assert "leave out model.lora" in message
