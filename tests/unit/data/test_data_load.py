"""Reading good files: the same rows from every format, nothing changed on the way."""

from __future__ import annotations

import csv
import io
import json
import pickle
import sys
from pathlib import Path
from types import ModuleType

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from rlft_core.data import load_rows
from rlft_core.types import Row

TABLE = [{"id": "a", "text": "Line one,\nline \u2028 two", "short": 'He said "é"', "n": "1"},
         {"id": "b", "text": " padded\t", "short": "ok", "n": "2"}]  # fmt: skip


def write_table(path: Path) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in TABLE), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(TABLE, indent=1), encoding="utf-8")
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(TABLE), path)
    else:
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, list(TABLE[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(TABLE)
        path.write_text(buffer.getvalue(), encoding="utf-8", newline="")


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".JSONL"])
def test_every_format_gives_the_same_rows(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"t{ending.lower()}"
    write_table(path)
    path = path.rename(tmp_path / f"t{ending}")
    rows = load_rows(str(path), input_field="text", output_field="short", id_field="id")
    assert rows == [Row(row["id"], row["text"], row["short"], row) for row in TABLE]


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv"])
def test_byte_order_mark_is_dropped(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"t{ending}"
    write_table(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    rows = load_rows(str(path), input_field="text", output_field="short", id_field="id")
    assert [row.id for row in rows] == ["a", "b"]


def test_ids_count_lines_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('\n{"a": "x", "b": "y"}\r\n\n{"a": "x", "b": "y"}')
    assert [row.id for row in load_rows(str(path), input_field="a", output_field="b")] == ["mine:2", "mine:4"]
    table = tmp_path / "mine.csv"
    table.write_text('a,b\n"two\nlines",y\n\nx,y\n')
    assert [row.id for row in load_rows(str(table), input_field="a", output_field="b")] == ["mine:2", "mine:5"]


def test_limit_reads_no_further(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": "x", "b": "y"}\n{"a": "x2", "b": "y2"}\nbroken\n')
    rows = load_rows(str(path), input_field="a", output_field="b", limit=2)
    assert [row.input for row in rows] == ["x", "x2"]


def test_relative_to_base_dir_and_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.jsonl").write_text('{"a": "x", "b": "y"}\n')
    monkeypatch.chdir(tmp_path)
    here = load_rows("t.jsonl", input_field="a", output_field="b")
    assert here == load_rows("t.jsonl", input_field="a", output_field="b", base_dir=tmp_path)
    assert here == load_rows(str(tmp_path / "t.jsonl"), input_field="a", output_field="b", base_dir=Path("/nowhere"))


def test_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def load_dataset(path: str, name: str | None, *, split: str) -> list[dict[str, object]]:
        asked.append((path, name, split))
        return [{"q": "x", "a": "y", "n": 1}]

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    assert load_rows("hf:org/name", input_field="q", output_field="a") == [
        Row("org/name:train:1", "x", "y", {"q": "x", "a": "y", "n": 1})
    ]
    load_rows("hf:org/name:main", input_field="q", output_field="a", split="test")
    assert asked == [("org/name", None, "train"), ("org/name", "main", "test")]


def test_rows_cross_process_borders(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    write_table(path)
    rows = load_rows(str(path), input_field="text", output_field="short")
    assert pickle.loads(pickle.dumps(rows)) == rows  # noqa: S301 - our own bytes


@given(st.lists(st.tuples(st.text(), st.text()).filter(lambda pair: pair[0].strip() and pair[1].strip()), min_size=1))
def test_any_text_survives_jsonl(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("d") / "t.jsonl"
    path.write_text("".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in pairs), encoding="utf-8")
    assert [(row.input, row.output) for row in load_rows(str(path), input_field="a", output_field="b")] == pairs
