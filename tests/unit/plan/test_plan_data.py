"""Rows, templates and rewards that cannot work are refused before a process starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlft_core.errors import ConfigError, DataError, ModelError
from tests.unit.plan.parts import plan_of, refusal, write_rows


def test_a_data_file_that_is_not_there(base: Path) -> None:
    message = refusal(base, "data.train=tran.jsonl", error=DataError)
    assert message.startswith("data.train: ")
    assert "tran.jsonl does not exist" in message
    assert "train.jsonl" in message


def test_a_row_without_its_field(base: Path) -> None:
    message = refusal(base, "data.output_field=synopsis", error=DataError)
    assert "data.train: " in message
    assert "line 1" in message
    assert "synopsis" in message
    assert "'output'" in message


def test_a_row_of_the_wrong_type(base: Path) -> None:
    with (base / "test.jsonl").open("a") as handle:
        handle.write(json.dumps({"id": "x", "input": 3, "output": "b"}) + "\n")
    message = refusal(base, error=DataError)
    assert "data.test: " in message
    assert "line 41" in message
    assert '"3"' in message


def test_an_empty_file(base: Path) -> None:
    (base / "test.jsonl").write_text("")
    assert "test.jsonl is empty" in refusal(base, error=DataError)


def test_a_row_on_two_sides(base: Path) -> None:
    write_rows(base / "test.jsonl", 2, first=58)
    message = refusal(base, error=DataError)
    assert "2 of 2 rows of test have the same input as a row of train: train:59 = test:1, train:60 = test:2." in message
    assert "or go on with data.on_two_sides: allow" in message


def test_rows_on_two_sides_that_are_allowed_are_told(base: Path) -> None:
    write_rows(base / "test.jsonl", 4, first=58)
    notes = plan_of(base, "data.on_two_sides=allow", "data.family_field=family").notes
    told = [note for note in notes if "rows of test have the same" in note]
    assert [note.split(" as a row of train")[0] for note in told] == [
        "2 of 4 rows of test have the same input",
        "2 of 4 rows of test have the same family",
    ]


@pytest.mark.parametrize(
    "override, named",
    [
        ("data.test=60", "leave none to train on"),
        ("data.test=1.5", "data.test: 1.5 is no share of the rows"),
        ("data.test=-3", "data.test: -3 sets no row aside"),
        ("data.validation=0", "data.validation: 0 sets no row aside"),
        ("data.test='0.1'", "data.test: "),
    ],
)
def test_sizes_that_cannot_be_set_aside(base: Path, override: str, named: str) -> None:
    assert named in refusal(base, override, error=DataError)


def test_a_placeholder_that_no_row_has(base: Path) -> None:
    message = refusal(base, "data.prompt.template='{inptu}'", error=DataError)
    assert message.startswith("data.prompt.template: ")
    assert "{inptu}" in message
    assert "Did you mean {input}?" in message


def test_a_stray_brace_in_the_template(base: Path) -> None:
    assert "data.prompt.template: " in refusal(base, "data.prompt.template='a { b'", error=ConfigError)


@pytest.mark.parametrize(
    "rewards, named",
    [
        ("[{type: custom, function: 'no_such_module:f'}]", ("stages.ppo.rewards: ", "no_such_module")),
        ("[{type: custom, function: 'json:no_such'}]", ("stages.ppo.rewards: ", "no_such")),
        (
            "[{type: rules, checks: [{check: no_words_of_field, field: pakage}]}]",
            ("stages.ppo.rewards: ", "'pakage'", "package"),
        ),
        ("[{type: ends_properly, weight: 0}]", ("stages.ppo.rewards: every weight is 0", "give one of them a weight")),
    ],
)
def test_rewards_that_cannot_work(base: Path, rewards: str, named: tuple[str, ...]) -> None:
    message = refusal(base, f"stages.ppo.rewards={rewards}", error=ConfigError)
    for part in named:
        assert part in message


def test_an_embedding_model_that_is_not_there(base: Path) -> None:
    message = refusal(base, "stages.ppo.rewards=[{type: embedding_similarity, model: ./nowhere}]", error=ModelError)
    assert "stages.ppo.rewards: " in message
    assert "./nowhere" in message
