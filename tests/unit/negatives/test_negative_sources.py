"""Bad outputs that take something from outside the output, and what a corpus must have for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlft_core.config.negatives import (
    CopyConfig,
    CustomNegativeConfig,
    HallucinatedConfig,
    IrrelevantConfig,
    ModelSamplesConfig,
    NegativeConfig,
    RandomTokensConfig,
    RunOnConfig,
    ShuffledConfig,
    TruncatedConfig,
)
from rlft_core.errors import ConfigError, DataError
from rlft_core.models.loading import load_tokenizer
from rlft_core.negatives import make_corpus, one_of_each, read_samples, write_samples
from rlft_core.types import Row

ROOT = Path(__file__).resolve().parents[3]
ROWS = [
    Row("pdf", "A fast viewer of PDF files. Reads version 1.7.", "fast viewer for PDF files", {"family": "viewers"}),
    Row("djvu", "A viewer of DjVu files.", "viewer for DjVu documents", {"family": "viewers"}),
    Row("chess", "The game of chess for GNOME, with 3 levels.", "chess game with 3 levels", {"family": "games"}),
    Row("go", "The game of Go for the terminal.", "board game for the terminal", {"family": "games"}),
]


def texts(row: Row, kind: NegativeConfig, rows: list[Row] | None = None, **given: Any) -> set[str]:
    """What a kind makes of a row under many seeds."""
    corpus = make_corpus(ROWS if rows is None else rows, [kind], **given)
    made = [one_of_each([row], corpus, [kind], seed=seed) for seed in range(80)]
    return {negative.text for one in made for contrast in one.contrasts for negative in contrast.negatives}


# Irrelevant


def test_irrelevant_outputs_are_those_of_other_rows() -> None:
    assert texts(ROWS[0], IrrelevantConfig()) == {row.output for row in ROWS[1:]}


def test_a_family_is_not_irrelevant_to_itself() -> None:
    assert texts(ROWS[0], IrrelevantConfig(), family_field="family") == {row.output for row in ROWS[2:]}


def test_without_families_rows_with_the_same_input_are_one() -> None:
    rows = [
        Row("a", "The same  input", "one output"),
        Row("b", "the same input", "another thing"),
        Row("c", "x", "third"),
    ]
    assert texts(rows[0], IrrelevantConfig(), rows) == {"third"}


def test_an_output_with_nearly_the_same_words_is_not_irrelevant() -> None:
    rows = [Row("a", "1", "viewer for PDF files"), Row("b", "2", "PDF files viewer"), Row("c", "3", "chess game")]
    assert texts(rows[0], IrrelevantConfig(), rows) == {"chess game"}


def test_the_nearest_outputs_are_drawn_by_embedding() -> None:
    rows = [
        *ROWS,
        *(Row(f"n{k}", f"number {k}", text) for k, text in enumerate(["bake bread", "sail a boat", "tax law"])),
    ]
    assert texts(rows[2], IrrelevantConfig(nearest=1), rows) == {"board game for the terminal"}
    assert texts(rows[0], IrrelevantConfig(nearest=1), rows) == {"viewer for DjVu documents"}
    # A row that is not in the corpus is compared with it all the same.
    outside = Row("new", "A chess program.", "program that plays chess")
    assert texts(outside, IrrelevantConfig(nearest=1), rows) == {"chess game with 3 levels"}


# Copy


def test_copies_are_pieces_of_the_input() -> None:
    row = Row("a", "one two  three four", "x y")
    assert texts(row, CopyConfig(part="whole")) == {"one two  three four"}
    assert texts(row, CopyConfig(part="lead", words=2)) == {"one two"}
    assert texts(row, CopyConfig(part="span", words=2)) == {"one two", "two  three", "three four"}
    assert texts(row, CopyConfig(part="span", words=9)) == {"one two  three four"}
    assert {len(text.split()) for text in texts(row, CopyConfig(part="lead"))} == {1, 2, 3, 4}
    assert texts(Row("b", "播放视频文件", "播放"), CopyConfig(part="lead", words=4)) == {"播放视频"}


def test_a_copy_is_never_as_good_as_the_output() -> None:
    assert texts(Row("a", "PDF viewer, fast", "fast PDF viewer"), CopyConfig(part="whole")) == set()
    assert "two three" not in texts(Row("a", "one two three four", "two three"), CopyConfig())
    assert texts(Row("a", " ", "x"), CopyConfig()) == set()


# Run on


def test_a_run_on_output_goes_on_after_its_end() -> None:
    corpus = make_corpus(ROWS, [RunOnConfig()])
    found = [one_of_each(ROWS, corpus, [RunOnConfig(unfinished=0.5)], seed=seed).contrasts for seed in range(50)]
    pairs = [(contrast.row, contrast.negatives[0]) for contrasts in found for contrast in contrasts]
    added = [negative.text.removeprefix(row.output) for row, negative in pairs]
    assert all(
        negative.text.startswith(row.output) and more for (row, negative), more in zip(pairs, added, strict=True)
    )
    for separator in (" ", "\n", ". ", ", ", " and "):
        assert any(more.startswith(separator) for more in added), separator
    cut_off = sum(not negative.ended for _, negative in pairs)
    assert abs(cut_off - len(pairs) / 2) < 5 * (len(pairs) / 4) ** 0.5


@pytest.mark.parametrize("unfinished, ended", [(0.0, {True}), (1.0, {False})])
def test_the_share_of_unfinished_outputs_is_kept(unfinished: float, ended: set[bool]) -> None:
    kind = RunOnConfig(unfinished=unfinished)
    made = one_of_each(ROWS, make_corpus(ROWS, [kind]), [kind], seed=0)
    assert {negative.ended for contrast in made.contrasts for negative in contrast.negatives} == ended


def test_a_run_on_output_has_no_second_full_stop() -> None:
    assert not any(".. " in text or "., " in text for text in texts(Row("a", "one two", "A tool."), RunOnConfig()))


# Hallucinated


def test_names_and_numbers_are_exchanged_for_others_of_their_type() -> None:
    rows = [
        Row("a", "in", "viewer for PDF 1.7 and OpenGL"),
        Row("b", "in b", "player for MIDI 2.0 and WindowMaker by Debian"),
    ]
    assert texts(rows[0], HallucinatedConfig(max_changes=3), rows) == {
        "viewer for MIDI 1.7 and OpenGL",
        "viewer for PDF 2.0 and OpenGL",
        "viewer for PDF 1.7 and WindowMaker",
        "viewer for MIDI 2.0 and OpenGL",
        "viewer for MIDI 1.7 and WindowMaker",
        "viewer for PDF 2.0 and WindowMaker",
        "viewer for MIDI 2.0 and WindowMaker",
    }


def test_a_number_without_another_of_its_shape_gets_other_digits() -> None:
    rows = [Row("a", "in", "from 1984"), Row("b", "in b", "with 12 files")]
    made = texts(rows[0], HallucinatedConfig(), rows)
    assert "from 1984" not in made
    assert all(text.startswith("from ") and 1000 <= int(text.removeprefix("from ")) <= 9999 for text in made)
    assert all("٣" not in text for text in texts(Row("c", "", "٣ ملفات"), HallucinatedConfig(), rows))


def test_what_the_input_says_is_not_put_in() -> None:
    rows = [Row("a", "reads PDF and MIDI", "viewer for PDF"), Row("b", "b", "MIDI or FLAC player")]
    assert texts(rows[0], HallucinatedConfig(), rows) == {"viewer for FLAC"}


def test_a_sentences_first_word_is_a_name_only_when_it_is_known_as_one() -> None:
    rows = [
        Row("a", "it speaks python", "Bindings for Python. Also Debian"),
        Row("b", "in b", "Python modules for Fedora"),
    ]
    made = texts(rows[1], HallucinatedConfig(max_changes=1), rows)
    assert made == {"Debian modules for Fedora", "Python modules for Debian"}
    assert all(text.startswith("Bindings") for text in texts(rows[0], HallucinatedConfig(), rows))


def test_without_names_a_long_word_of_the_input_is_exchanged_for_one_of_the_same_ending() -> None:
    rows = [
        Row("a", "for sorting your files", "sorting of documents"),
        Row("b", "b", "a painting in the kitchen"),
    ]
    assert texts(rows[0], HallucinatedConfig(), rows) == {"painting of documents"}
    assert texts(Row("c", "nothing", "pets sleeping"), HallucinatedConfig(max_changes=1), rows) == {
        "pets sorting",
        "pets painting",
    }


def test_an_output_without_anything_to_exchange_is_skipped() -> None:
    rows = [Row("a", "in", "a new go"), Row("b", "in b", "another thing")]
    corpus = make_corpus(rows, [HallucinatedConfig()])
    made = one_of_each(rows[:1], corpus, [HallucinatedConfig()], seed=0)
    assert made.contrasts == ()
    assert made.skipped == {"hallucinated": 1, "<row without negatives>": 1}


# Random tokens


def test_random_tokens_are_as_many_and_none_is_special(tiny_folder: Path) -> None:
    tokenizer = load_tokenizer(tiny_folder)
    corpus = make_corpus(ROWS, [RandomTokensConfig()], tokenizer=tokenizer)
    assert set(tokenizer.all_special_ids).isdisjoint(corpus.token_ids.tolist())
    assert len(corpus.token_ids) > 100
    made = one_of_each(ROWS, corpus, [RandomTokensConfig()], seed=0)
    assert made.counts == {"random_tokens": 4}
    for contrast in made.contrasts:
        assert "\ufffd" not in contrast.negatives[0].text
        length = len(tokenizer.encode(contrast.row.output))
        assert length / 4 < len(tokenizer.encode(contrast.negatives[0].text)) <= 4 * length


def test_random_tokens_need_a_tokenizer() -> None:
    with pytest.raises(
        ConfigError, match=r"negatives 'random_tokens': needs the model's tokenizer .* leave this kind out"
    ):
        make_corpus(ROWS, [RandomTokensConfig()])


# The model's samples


def test_a_sample_as_good_as_the_reference_is_no_negative() -> None:
    samples = {
        "pdf": [
            ("fast viewer for PDF files ", True),
            ("viewer for PDF files, fast", True),
            ("a viewer", True),
            (" ", True),
        ],
        "chess": [("a game game game", False)],
    }
    kind = ModelSamplesConfig()
    assert texts(ROWS[0], kind, samples=samples) == {"a viewer"}
    made = one_of_each(ROWS, make_corpus(ROWS, [kind], samples=samples), [kind], seed=0)
    assert [(c.row.id, c.negatives[0].text, c.negatives[0].ended) for c in made.contrasts] == [
        ("pdf", "a viewer", True),
        ("chess", "a game game game", False),
    ]
    assert made.skipped == {"model_samples": 2, "<row without negatives>": 2}
    strict = ModelSamplesConfig(max_overlap=0.2)
    assert texts(ROWS[0], strict, samples=samples) == set()


def test_samples_survive_a_file(tmp_path: Path) -> None:
    samples = {"b": [("two\nlines\u2028", False), ("播放", True)], "a": [("", True)]}
    write_samples(tmp_path / "samples.jsonl", samples)
    assert read_samples(tmp_path / "samples.jsonl") == samples
    assert [path.name for path in tmp_path.iterdir()] == ["samples.jsonl"]


@pytest.mark.parametrize("line", ["{", "[]", '{"id": "a", "text": "x"}', '{"id": 1, "text": "x", "ended": true}'])
def test_a_line_that_is_no_sample_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(f'{{"id": "a", "text": "x", "ended": true}}\n{line}\n')
    with pytest.raises(DataError, match=r"samples\.jsonl, line 2: not a sample"):
        read_samples(path)
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read"):
        read_samples(tmp_path / "none.jsonl")


# Users' functions

MODULE = """
def formal(row, rng, prefix="Dear Sir, "):
    return prefix + row.output + str(rng.integers(3))

def never(row, rng): return None
def some(row, rng): return "some" if row.fields["family"] == "games" else None
def number(row, rng): return 3
def fails(row, rng): raise KeyError("colour")
def one(row): return ""
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"user_negatives_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_a_users_function_makes_negatives(module: str) -> None:
    formal = CustomNegativeConfig(function=f"{module}:formal", params={"prefix": "Hello "}, name="formal")
    assert texts(ROWS[0], formal) == {f"Hello fast viewer for PDF files{digit}" for digit in (0, 1, 2)}
    some = CustomNegativeConfig(function=f"{module}:some")
    made = one_of_each(ROWS, make_corpus(ROWS, [some]), [some], seed=0)
    assert [contrast.row.id for contrast in made.contrasts] == ["chess", "go"]
    assert made.skipped == {"custom": 2, "<row without negatives>": 2}


@pytest.mark.parametrize(
    "function, message",
    [
        ("number", "returned int for row 'pdf'. Return the bad output as a str, or None"),
        ("fails", "raised KeyError for row 'pdf': 'colour'"),
    ],
)
def test_a_users_function_that_goes_wrong_is_named_with_the_row(module: str, function: str, message: str) -> None:
    kind = CustomNegativeConfig(function=f"{module}:{function}", name="mine")
    corpus = make_corpus(ROWS, [kind])
    with pytest.raises(ConfigError, match=f"negatives 'mine': function '{module}:{function}' {message}") as caught:
        one_of_each(ROWS, corpus, [kind], seed=0)
    assert (caught.value.__cause__ is not None) == (function == "fails")


@pytest.mark.parametrize(
    "function, message",
    [
        ("nowhere", "has no 'nowhere'. It has: fails, formal, never, number, one, some"),
        ("one", r"cannot be called as f\(row, rng\)"),
    ],
)
def test_a_users_function_is_looked_for_before_the_start(module: str, function: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"negatives 'custom': function '{module}:{function}'.*{message}"):
        make_corpus(ROWS, [CustomNegativeConfig(function=f"{module}:{function}")])


# What a corpus must have


@pytest.mark.parametrize(
    "kind, rows, message",
    [
        (
            IrrelevantConfig(),
            ROWS[:1],
            "takes from the outputs of other rows, but all 1 have the same one. Give more rows",
        ),
        (HallucinatedConfig(), ROWS[:1] * 3, "but all 3 have the same one"),
        (CopyConfig(), [Row("a", " ", "x")], "copies from the input, but all 1 rows have a blank one"),
        (TruncatedConfig(), [Row("a", "in", "yes"), Row("b", "in", "no")], "every output is a single one"),
        (ShuffledConfig(), [Row("a", "in", "1"), Row("b", "in", "2")], "needs two different words or letters"),
        (ModelSamplesConfig(), ROWS, "there are no samples of the model, which the reward-model stage makes"),
        (ShuffledConfig(), [], "none of the 0 rows has an output"),
        (ShuffledConfig(), [Row("a", "in", " ")], "none of the 1 rows has an output"),
    ],
)
def test_a_corpus_that_is_too_small_for_a_kind_names_it(kind: NegativeConfig, rows: list[Row], message: str) -> None:
    with pytest.raises(DataError, match=f"negatives '{kind.label}': .*{message}.*, or leave this kind out"):
        make_corpus(rows, [kind])


def test_the_package_imports_no_torch() -> None:
    code = "import sys, rlft_core.negatives; print([m for m in ('torch', 'transformers', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
