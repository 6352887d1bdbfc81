"""What is proposed for a file: columns, limits, kinds of negatives, numbers; and that the recipe is one."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlft_core.config import Recipe, parse_recipe
from rlft_core.config.online import PpoStage
from rlft_core.config.stages import EvaluateStage, RewardModelStage, SftStage
from rlft_core.errors import ConfigError, DataError
from rlft_core.plan import make_plan
from rlft_core.plan.choose_columns import choose_columns
from rlft_core.plan.inspect_rows import read_table
from rlft_core.plan.propose import KnownModel, Proposal, Wish, known_model, propose, run_name
from rlft_core.plan.propose_data import limits_of
from rlft_core.plan.recipe_text import Block, Item, Remark, Setting, recipe_text
from rlft_core.plan.text_shape import TokenLengths
from tests.unit.plan.parts import LAPTOP, SERVER

NOT_HERE = KnownModel("org/name", None, None)
WORDS = (
    "a",
    "small",
    "tool",
    "shows",
    "pictures",
    "and",
    "reads",
    "large",
    "files",
    "of",
    "Linux",
    "4",
    "users",
    "in",
    "many",
)


def sentence(index: int, length: int) -> str:
    return " ".join([f"w{index}", *(WORDS[(index * 7 + at * 3) % len(WORDS)] for at in range(length - 1))])


def pairs(count: int, *, words_in: int = 20, words_out: int = 6) -> list[dict[str, Any]]:
    return [
        {"article": sentence(i, words_in), "summary": sentence(i + 1, words_out + i % 3)} for i in range(count)
    ]  # fmt: skip


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def proposed(source: str, known: KnownModel = NOT_HERE, *, num_gpus: int = 0, **wished: Any) -> Proposal:
    table = read_table(source)
    wish = Wish(**{"source": source, "out": "my.yaml", "rows_file": f"{source}.rows.jsonl", "name": "my", **wished})
    return propose(table, choose_columns(table), wish, model=known, num_gpus=num_gpus)


def recipe_of(proposal: Proposal) -> Recipe:
    return parse_recipe(yaml.safe_load(proposal.text))


def stages_of(recipe: Recipe) -> tuple[SftStage, RewardModelStage, PpoStage, EvaluateStage]:
    sft, reward, ppo, evaluate = recipe.stages
    assert isinstance(sft, SftStage)
    assert isinstance(reward, RewardModelStage)
    assert isinstance(ppo, PpoStage)
    assert isinstance(evaluate, EvaluateStage)
    return sft, reward, ppo, evaluate


def kinds(proposal: Proposal) -> list[str]:
    return [kind.kind for kind in stages_of(recipe_of(proposal))[1].negatives]


# Columns


def columns(tmp_path: Path, rows: Sequence[dict[str, Any]], **given: str) -> Any:
    return choose_columns(read_table(write(tmp_path / "rows.jsonl", rows)), **given)


def test_columns_are_known_by_name(tmp_path: Path) -> None:
    rows = [{"uid": i, "doc_id": i // 5, **row, "license": f"L{i % 3}"} for i, row in enumerate(pairs(60))]
    found = columns(tmp_path, rows)
    assert (found.input, found.output, found.id, found.family) == ("article", "summary", "uid", "doc_id")
    assert (found.others, found.template) == (("license",), "{article}")
    assert found.input_reason == found.output_reason == "by its name"


def test_columns_with_other_names_are_known_by_length(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["nr", "kurz", "Beschreibung"])
        writer.writerows([i, row["summary"], row["article"]] for i, row in enumerate(pairs(30)))
    found = choose_columns(read_table(str(path)))
    assert (found.input, found.output, found.input_reason) == ("Beschreibung", "kurz", "by its length")


def test_what_the_person_names_is_taken(tmp_path: Path) -> None:
    found = columns(tmp_path, pairs(30), input_field="summary", output_field="article")
    assert (found.input, found.output, found.input_reason) == ("summary", "article", "--input")


def test_an_instruction_and_its_input_make_one_prompt(tmp_path: Path) -> None:
    rows = [{"instruction": f"Do {i}", "input": "" if i % 2 else f"with {i}", "output": f"done {i}"} for i in range(30)]
    assert columns(tmp_path, rows).template == "{instruction}\n\n{column.input}"
    asked = [{"question": f"Who is {i}?", "context": f"He is {i}", "answer": f"x {i}"} for i in range(30)]
    assert columns(tmp_path, asked).template == "{context}\n\n{question}"


@pytest.mark.parametrize(
    "row, said",
    [
        ({"a": "same length {i}", "b": "like the othe {i}"}, "neither names nor lengths say"),
        ({"id": "{i}", "messages": ["hello {i}"]}, "column 'messages' holds lists"),
        ({"text": "only {i} here", "n": 4}, "does not have two columns of text"),
    ],
)
def test_what_cannot_be_decided_is_said(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    rows = [json.loads(json.dumps(row).replace("{i}", str(i))) for i in range(10, 40)]
    with pytest.raises(DataError, match=said):
        columns(tmp_path, rows)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"output_field": "sumary"}, "Did you mean 'summary'"),
        ({"output_field": "turns"}, "no text there: 'turns' .lists in 30 rows.*last turn"),
        ({"input_field": "article", "output_field": "article"}, "are both 'article'"),
    ],
)
def test_a_named_column_that_will_not_do(tmp_path: Path, given: dict[str, str], said: str) -> None:
    rows = [{**row, "turns": ["a", "b"]} for row in pairs(30)]
    with pytest.raises(DataError, match=said):
        columns(tmp_path, rows, **given)


def test_names_that_are_not_unique_are_no_ids_and_rare_groups_no_families(tmp_path: Path) -> None:
    rows = [{"id": i // 2, "family": i % 2, **row} for i, row in enumerate(pairs(30))]
    found = columns(tmp_path, rows)
    assert (found.id, found.family) == (None, None)


# Rows


def test_one_row_is_refused_and_so_are_two_inputs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds a single row"):
        proposed(write(tmp_path / "rows.jsonl", pairs(1)))
    with pytest.raises(DataError, match="2 usable rows with 2 different inputs"):
        proposed(write(tmp_path / "rows.jsonl", pairs(2)))


def test_rows_that_a_run_would_refuse_are_left_out_aloud(tmp_path: Path) -> None:
    rows = pairs(50)
    rows[3]["summary"], rows[5]["article"], rows[7]["summary"] = "  ", None, 7
    proposal = proposed(write(tmp_path / "rows.jsonl", rows))
    assert proposal.kept is not None
    assert (len(proposal.kept), proposal.num_rows) == (47, 47)
    assert (
        "3 of 50 rows cannot be used (line 4: 'summary' is blank; line 6: 'article' is blank; line 8:"
        in proposal.notes[0]
    )
    assert "'summary' is a number, not text" in proposal.notes[0]
    assert recipe_of(proposal).data.train.endswith("rows.jsonl.rows.jsonl")


def test_repeated_inputs_and_few_rows_are_noted(tmp_path: Path) -> None:
    rows = [*pairs(20), {"article": pairs(1)[0]["article"].upper(), "summary": "something else"}]
    notes = " ".join(proposed(write(tmp_path / "rows.jsonl", rows)).notes)
    assert "1 rows have the same input as an earlier one" in notes
    assert "21 rows show that everything runs" in notes


def test_files_beside_a_file_called_train_are_its_sides(tmp_path: Path) -> None:
    rows = pairs(80)
    source = write(tmp_path / "train.jsonl", rows[:60])
    write(tmp_path / "dev.jsonl", rows[60:])
    write(tmp_path / "test.jsonl", rows[:5])
    proposal = proposed(source)
    data = recipe_of(proposal).data
    assert data.validation == str(tmp_path / "dev.jsonl")
    assert data.test == 12
    assert "test.jsonl lies beside train.jsonl but was not taken as data.test: 5 of 5 rows" in proposal.notes[-1]
    write(tmp_path / "test.jsonl", rows[70:])
    assert (
        "not taken as data.test: 10 of 10 rows of test have the same input as a row of validation"
        in (proposed(source).notes[-1])
    )


def test_rows_of_other_files_are_measured_too(tmp_path: Path) -> None:
    source = write(tmp_path / "train.jsonl", pairs(60))
    write(tmp_path / "validation.jsonl", pairs(80)[60:])
    write(tmp_path / "test.jsonl", [{"article": sentence(900 + i, 60), "summary": "short"} for i in range(20)])
    alone = recipe_of(proposed(write(tmp_path / "rows.jsonl", pairs(60)))).data.max_prompt_tokens
    assert recipe_of(proposed(source)).data.max_prompt_tokens > alone + 60


# Numbers


def test_limits_have_room_for_nearly_all_and_for_the_longest_if_near() -> None:
    near = limits_of(TokenLengths((*[100] * 99, 130), (20,) * 100, complete=True, exact=True), context=2048)
    assert (near.max_prompt, near.completion, near.max_length, near.skip) == (160, 32, 192, False)
    far = limits_of(TokenLengths((*[100] * 99, 900), (20,) * 100, complete=True, exact=True), context=2048)
    assert (far.max_prompt, far.completion, far.max_length, far.skip, far.num_left_out) == (128, 32, 160, True, 1)
    tight = limits_of(TokenLengths((400,) * 10, (100,) * 10, complete=True, exact=True), context=512)
    assert (tight.max_prompt, tight.completion, tight.max_length, tight.num_left_out) == (408, 104, 512, 0)
    small = limits_of(TokenLengths((200,) * 10, (90,) * 10, complete=True, exact=True), context=256)
    assert (small.max_prompt, small.completion, small.max_length, small.num_left_out) == (160, 96, 256, 10)


def test_numbers_follow_from_the_data(tmp_path: Path, tiny_folder: Path) -> None:
    source = write(tmp_path / "rows.jsonl", pairs(200))
    recipe = recipe_of(proposed(source, known_model(str(tiny_folder)), model=str(tiny_folder)))
    sft, reward, ppo, evaluate = stages_of(recipe)
    assert (recipe.data.validation, recipe.data.test) == (30, 30)
    assert (sft.num_steps, sft.validate_every, sft.keep, sft.patience) == (45, 5, "best", 3)
    assert reward.num_steps == 30
    assert reward.learner.freeze.bottom_layers == ppo.learner.freeze.bottom_layers == 1
    assert sft.learner.freeze.bottom_layers == 0
    assert [weighed.type for weighed in ppo.rewards] == ["reward_model", "length_penalty"]
    assert evaluate.systems == {"base": "base", "mle": "sft", "rl": "ppo"}
    assert evaluate.systems_postprocessed == ("base", "mle", "rl")
    assert evaluate.postprocess is not None
    assert (evaluate.postprocess.max_words, evaluate.postprocess.first_line) == (8, True)
    assert recipe.data.prompt.system == "Write the summary for this article (one line, at most 8 words)."


@pytest.mark.parametrize("num_gpus, ranks, engines, on_gpu", [(2, 1, 1, 0.0), (3, 1, 1, 1.0), (8, 4, 3, 1.0)])
def test_gpus_are_shared_out(tmp_path: Path, num_gpus: int, ranks: int, engines: int, on_gpu: float) -> None:
    recipe = recipe_of(proposed(write(tmp_path / "rows.jsonl", pairs(200)), num_gpus=num_gpus))
    ppo = stages_of(recipe)[2]
    assert (ppo.learner.num_ranks, ppo.rollout.num_engines) == (ranks, engines)
    assert ppo.reward_models[0].gpus_per_actor == on_gpu


def test_the_only_gpu_is_the_engines(tmp_path: Path) -> None:
    sft, _, ppo, _ = stages_of(recipe_of(proposed(write(tmp_path / "rows.jsonl", pairs(200)), num_gpus=1)))
    assert (sft.learner.device, ppo.learner.device) == ("auto", "cpu")


@pytest.mark.parametrize("num_gpus", [0, 1, 2, 3, 8])
def test_a_proposal_can_be_planned(tmp_path: Path, tiny_folder: Path, num_gpus: int) -> None:
    rows = [{"key": f"k{i}", **row} for i, row in enumerate(pairs(90))]
    rows[4]["article"] = sentence(4, 600)
    source = write(tmp_path / "rows.jsonl", rows)
    proposal = proposed(source, known_model(str(tiny_folder)), model=str(tiny_folder), num_gpus=num_gpus)
    available = SERVER if num_gpus else LAPTOP
    plan = make_plan(recipe_of(proposal), base_dir=tmp_path, available=available)
    assert plan.num_rows == {"train": 54, "validation": 18, "test": 18}
    assert sum(lengths.num_skipped for lengths in plan.prompt_tokens.values()) <= 1
    assert plan.warnings == ()


def test_a_model_that_is_not_here_is_said(tmp_path: Path) -> None:
    proposal = proposed(write(tmp_path / "rows.jsonl", pairs(200)), model="org/name")
    recipe = recipe_of(proposal)
    assert "org/name is not on this machine" in proposal.notes[0]
    assert (recipe.model.name, recipe.data.too_long) == ("org/name", "skip")
    assert stages_of(recipe)[0].optimizer.lr == 1e-5


def test_rows_that_fit_no_context_are_refused(tmp_path: Path, tiny_folder: Path) -> None:
    source = write(tmp_path / "rows.jsonl", pairs(20, words_in=600))
    with pytest.raises(DataError, match="no row fits the model's context of 512 tokens"):
        proposed(source, known_model(str(tiny_folder)))


def test_a_template_without_system_messages_gets_the_instruction_in_the_prompt(
    tmp_path: Path, tiny_folder: Path
) -> None:
    known = known_model(str(tiny_folder))
    assert known.tokenizer is not None
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    known.tokenizer.chat_template = refusal + "{{ messages[0].content }}"
    source = write(tmp_path / "rows.jsonl", pairs(60))
    prompt = recipe_of(proposed(source, known, instruction="Be {brief}.")).data.prompt
    assert (prompt.system, prompt.template) == (None, "Be {{brief}}.\n\n{article}")


# Kinds of text


def test_all_kinds_that_can_be_made_are_proposed(tmp_path: Path) -> None:
    found = kinds(proposed(write(tmp_path / "rows.jsonl", pairs(200))))
    published = ["random_tokens", "irrelevant", "shuffled", "repetitive", "copy"]
    ours = ["truncated", "run_on", "hallucinated", "typos", "model_samples"]
    assert found == [*published, "irrelevant", *ours]  # the second one is of outputs that are close in meaning


def test_nothing_is_close_in_meaning_among_few_outputs(tmp_path: Path) -> None:
    assert kinds(proposed(write(tmp_path / "rows.jsonl", pairs(60)))).count("irrelevant") == 1


def test_labels_are_said_to_be_no_text(tmp_path: Path) -> None:
    rows = [{"text": sentence(i, 12), "label": ("good", "bad", "neither")[i % 3]} for i in range(120)]
    proposal = proposed(write(tmp_path / "rows.jsonl", rows))
    assert "the outputs are 3 labels (good, bad, neither): a classification task" in proposal.notes[0]
    assert recipe_of(proposal).data.prompt.system == "Answer with one of: bad, good, neither."
    found = kinds(proposal)
    assert not {"shuffled", "truncated", "hallucinated"} & set(found)
    assert "# - { kind: truncated } # left out: the outputs are single words" in proposal.text
    assert [weighed.type for weighed in stages_of(recipe_of(proposal))[2].rewards][-1] == "exact_match"


def test_outputs_that_stand_in_their_input_make_no_copies(tmp_path: Path) -> None:
    rows = [{"article": row["article"], "summary": " ".join(row["article"].split()[2:9])} for row in pairs(100)]
    proposal = proposed(write(tmp_path / "rows.jsonl", rows))
    assert "copy" not in kinds(proposal)
    assert "100% of the outputs stand word for word in their input" in proposal.text


def test_a_script_without_spaces_is_counted_in_characters(tmp_path: Path) -> None:
    rows = [
        {"文章": "程序可以显示图片播放音乐" * 3 + str(i), "摘要": "图片播放" * (1 + i % 3) + "。"} for i in range(60)
    ]
    proposal = proposed(write(tmp_path / "rows.jsonl", rows))
    recipe = recipe_of(proposal)
    ppo, evaluate = stages_of(recipe)[2:]
    assert (recipe.data.input_field, recipe.data.output_field) == ("文章", "摘要")
    assert ppo.rewards[1].model_dump()["unit"] == "characters"
    assert ppo.watch is not None
    assert ppo.watch.best_by == "similarity_to_reference"
    assert evaluate.postprocess is not None
    assert (evaluate.postprocess.max_chars, evaluate.postprocess.max_words) == (13, None)
    assert "ROUGE, which the evaluation reports, sees nothing else" in " ".join(proposal.notes)


# Text


def test_what_a_person_wished_stands_in_the_recipe(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", pairs(60))
    text = 'Say: "yes" # or {no}\n'
    recipe = recipe_of(proposed(source, instruction=text, name="2024"))
    assert (recipe.data.prompt.system, recipe.name) == (text, "2024")
    with pytest.raises(ConfigError, match="it becomes a folder"):
        proposed(source, name="a/b")


def test_names_from_files_cannot_break_the_recipe(tmp_path: Path) -> None:
    rows = [{"a: {b}\x07# c": row["article"], "yes": row["summary"]} for row in pairs(60)]
    recipe = recipe_of(proposed(write(tmp_path / "rows.jsonl", rows)))
    assert (recipe.data.input_field, recipe.data.output_field) == ("a: {b}\x07# c", "yes")
    assert recipe.data.prompt.template == "{input}"


def test_how_settings_are_written() -> None:
    nodes = (
        Remark("Why all this."),
        Setting("lr", 1e-5),
        Setting("name", "no", "text, not false"),
        Setting("far", ["x" * 60], "y " * 40),
        Block("kinds", (Item({"kind": "copy", "on": True}), Item({"kind": "typos"}, "left out", active=False))),
    )
    assert recipe_text(nodes).splitlines() == [
        "# Why all this.",
        "lr: 1.0e-5",
        'name: "no" # text, not false',
        "# " + ("y " * 40).strip(),
        f"far: [{'x' * 60}]",
        "kinds:",
        '  - { kind: copy, "on": true }',
        "  # - { kind: typos } # left out",
    ]


def test_a_runs_name_from_any_file_name() -> None:
    assert [run_name(text) for text in ("my data (2)", "数据", "-a.b")] == ["my-data-2", "last-mile", "a.b"]
