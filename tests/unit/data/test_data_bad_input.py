"""What a user gets for a data file that cannot be used: which file, which row, which field, and the way out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pyarrow
import pytest
from pyarrow import parquet

from rlft_core.data import load_rows
from rlft_core.errors import DataError

GOOD = '{"input": "one", "output": "1"}\n'

# file name, its bytes, what the message must contain
BAD_FILES: dict[str, tuple[str, bytes, list[str]]] = {
    "empty file": ("t.jsonl", b"", ["t.jsonl", "empty (0 bytes)", "at least one row"]),
    "only blank lines": ("t.jsonl", b"\n  \n", ["t.jsonl", "no rows", "at least one row"]),
    "only a header": ("t.csv", b"input,output\n", ["t.csv", "no rows"]),
    "empty json list": ("t.json", b"[]", ["t.json", "no rows"]),
    "broken line": ("t.jsonl", GOOD.encode() + b'{"input": "two", \n', ["t.jsonl", "line 2", "broken JSON", '"two"']),
    "json list named jsonl": ("t.jsonl", b'[\n{"input": "x"}]', ["line 1", "broken JSON", "must be named .json"]),
    "list on one line": ("t.jsonl", b'["a", "b"]\n', ["line 1", "must be a JSON object", "a list"]),
    "row is text": ("t.jsonl", GOOD.encode() + b'"two"\n', ["line 2", "must be a JSON object", "text"]),
    "row is null": ("t.json", b"[null]", ["row 1", "must be a JSON object", "null"]),
    "json is an object": ("t.json", b'{"rows": []}', ["t.json", "JSON list of objects", "an object", "[ ]"]),
    "jsonl named json": ("t.json", GOOD.encode() * 2, ["t.json", "broken JSON", "name it .jsonl"]),
    "missing field": ("t.jsonl", b'{"text": "x", "output": "1"}\n', ["line 1", "'input' (input_field)", "'text'"]),
    "near spelling": ("t.jsonl", b'{"Inputs": "x", "output": "1"}\n', ["no field 'input'", "mean 'Inputs'"]),
    "missing in a later row": ("t.jsonl", GOOD.encode() + b'{"input": "x"}\n', ["line 2", "'output' (output_field)"]),
    "row without fields": ("t.jsonl", b"{}\n", ["line 1", "has no fields"]),
    "number": ("t.jsonl", b'{"input": 5, "output": "1"}\n', ["line 1", "must be text", "number 5", '"5"']),
    "truth value": ("t.jsonl", b'{"input": "x", "output": true}\n', ["'output'", "truth value True", "quotes"]),
    "null": ("t.jsonl", b'{"input": "x", "output": null}\n', ["line 1", "'output'", "null", "remove the row"]),
    "conversation": ("t.jsonl", b'{"input": [{"role": "user"}], "output": "1"}\n', ["a list", "one text"]),
    "object": ("t.jsonl", b'{"input": {"text": "x"}, "output": "1"}\n', ["'input'", "dict", "one text"]),
    "blank input": ("t.jsonl", b'\n{"input": " \\n", "output": "1"}\n', ["line 2", "'input'", "blank", "remove"]),
    "blank output": ("t.csv", b"input,output\nx,\n", ["line 2", "'output' (output_field)", "blank"]),
    "latin-1": ("t.jsonl", GOOD.encode() + '{"input": "é"}'.encode("latin-1"), ["line 2", "byte 0xe9", "UTF-8"]),
    "latin-1 csv": ("t.csv", "input,output\nx,1\né,2".encode("latin-1"), ["line 3", "byte 0xe9", "Save the file"]),
    "utf-16": ("t.jsonl", GOOD.encode("utf-16"), ["t.jsonl", "UTF-16", "Save the file as UTF-8"]),
    "too many values": ("t.csv", b'input,output\n"a\nb",1\nx, y,2\n', ["line 4", "3 values", "2 columns", "quotes"]),
    "too few values": ("t.tsv", b"input\toutput\nx\n", ["line 2", "1 values", "(input, output)"]),
    "open quote": ("t.csv", b'input,output\n"x,1\n', ["line 2", "quote", ".jsonl"]),
    "column twice": ("t.csv", b"input,output, input\nx,1,y\n", ["line 1", "'input' more than once", "Rename"]),
    "not parquet": ("t.parquet", b"PAR0 this is not it", ["t.parquet", "not a readable Parquet", "again"]),
    "unknown ending": ("t.xlsx", b"PK", ["t.xlsx", "'.xlsx' cannot be read", ".jsonl", "Convert"]),
    "packed": ("t.jsonl.gz", b"\x1f\x8b", ["'.gz' cannot be read", "Unpack"]),
    "no ending": ("data", b"x", ["'' cannot be read"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_file(case: str, tmp_path: Path) -> None:
    name, content, expected = BAD_FILES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_rows(name, input_field="input", output_field="output", base_dir=tmp_path)
    message = str(caught.value)
    assert name in message
    for part in expected:
        assert part in message


def message_of(call: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    return str(caught.value)


def test_missing_file_suggests_near_names(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(GOOD)
    text = message_of(lambda: load_rows("trian.jsonl", input_field="a", output_field="b", base_dir=tmp_path))
    assert "trian.jsonl does not exist" in text
    assert "Did you mean train.jsonl?" in text
    text = message_of(lambda: load_rows("zzz.csv", input_field="a", output_field="b", base_dir=tmp_path))
    assert "That folder has 'train.jsonl'" in text
    text = message_of(lambda: load_rows("no/t.csv", input_field="a", output_field="b", base_dir=tmp_path))
    assert "That folder does not exist either" in text


def test_folder_lists_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    text = message_of(lambda: load_rows(str(tmp_path), input_field="a", output_field="b"))
    assert "is a folder" in text
    assert "'a.csv'" in text
    assert "Give one file" in text


def test_duplicate_id_names_both_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"input": "x", "output": "1", "k": 7}\n\n{"input": "y", "output": "2", "k": "7"}\n')
    text = message_of(lambda: load_rows(str(path), input_field="input", output_field="output", id_field="k"))
    assert "line 3: id '7' was already used at line 1" in text
    assert "'k' unique" in text


@pytest.mark.parametrize("key", ["id_field", "family_field"])
def test_id_and_family_must_be_there_and_filled(key: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"input": "x", "output": "1", "k": null}\n')
    text = message_of(lambda: load_rows(str(path), input_field="input", output_field="output", **{key: "k"}))
    assert "line 1" in text
    assert f"'k' ({key})" in text
    text = message_of(lambda: load_rows(str(path), input_field="input", output_field="output", **{key: "kk"}))
    assert f"no field 'kk' ({key})" in text
    assert "Did you mean 'k'?" in text


def test_parquet_value_of_another_type_names_its_row(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.table({"input": ["a", "b"], "output": ["1", None]}), path)
    text = message_of(lambda: load_rows(str(path), input_field="input", output_field="output"))
    assert "t.parquet, row 2" in text
    assert "null" in text


@pytest.mark.parametrize("limit", [0, -3])
def test_limit_below_one(limit: int) -> None:
    text = message_of(lambda: load_rows("t.jsonl", input_field="a", output_field="b", limit=limit))
    assert f"limit = {limit}" in text
    assert "at least 1" in text


def test_empty_source() -> None:
    assert "hf:org/name" in message_of(lambda: load_rows(" ", input_field="a", output_field="b"))


def test_split_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(GOOD)
    text = message_of(
        lambda: load_rows("t.jsonl", input_field="input", output_field="output", split="test", base_dir=tmp_path)
    )
    assert "split = 'test' is only for hub data sets" in text
    assert "Remove it" in text


@pytest.mark.parametrize("source", ["hf:", "hf:a/b/c", "hf: /"])
def test_malformed_hub_id(source: str) -> None:
    text = message_of(lambda: load_rows(source, input_field="a", output_field="b"))
    assert "Write hf:org/name" in text


def test_hub_without_the_datasets_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    text = message_of(lambda: load_rows("hf:org/name", input_field="a", output_field="b"))
    assert "pip install datasets" in text
    assert "local file" in text


@pytest.mark.parametrize(
    "error", [ConnectionError("offline"), FileNotFoundError("no such set"), ValueError("bad split")]
)
def test_hub_that_cannot_be_reached(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise error

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    text = message_of(lambda: load_rows("hf:org/name", input_field="a", output_field="b", split="dev"))
    assert "hf:org/name (split 'dev')" in text
    assert str(error) in text
    assert "give a local .jsonl" in text


def test_hub_row_with_a_missing_field(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("datasets")
    module.load_dataset = lambda *_, **__: [{"question": "x", "answer": "1"}]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    text = message_of(lambda: load_rows("hf:org/name", input_field="questoin", output_field="answer"))
    assert "hf:org/name (split 'train'), row 1" in text
    assert "Did you mean 'question'?" in text
