"""The bundled rows: sizes, no leaks between the files, Debian's rules; and the script that made them."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from rlft_core.data import Splits, check_disjoint, load_rows
from rlft_core.types import Row

FOLDER = Path(__file__).parents[3] / "data" / "synopses"


@pytest.fixture(scope="module")
def splits() -> Splits:
    sides: dict[str, tuple[Row, ...]] = {}
    for name in ("train", "validation", "test"):
        rows = load_rows(
            f"{name}.jsonl", input_field="description", output_field="synopsis", id_field="id",
            family_field="family", base_dir=FOLDER,
        )  # fmt: skip
        sides[name] = tuple(rows)
    return Splits(**sides)


def test_sizes(splits: Splits) -> None:
    assert len(splits.train) >= 1000
    assert len(splits.validation) >= 150
    assert len(splits.test) >= 200
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) <= 1_000_000


def test_columns_and_lengths(splits: Splits) -> None:
    for row in (*splits.train, *splits.validation, *splits.test):
        assert list(row.fields) == ["id", "package", "family", "description", "synopsis"]
        assert len(row.input.split()) <= 60
        assert 2 <= len(row.output.split()) <= 12
        assert row.input.isascii()
        assert "\n" not in row.input + row.output
        assert row.input == " ".join(row.input.split())


def test_no_family_or_input_on_two_sides(splits: Splits) -> None:
    check_disjoint(splits, family_field="family")
    for side in (splits.validation, splits.test):
        assert len({row.fields["family"] for row in side}) == len(side)
    ids = [row.id for side in (splits.train, splits.validation, splits.test) for row in side]
    assert len(set(ids)) == len(ids)


def test_no_near_duplicates_between_train_and_held_out(splits: Splits) -> None:
    def bag(text: str) -> set[str]:
        return set(re.findall("[a-z0-9]+", text.lower()))

    train = [(bag(row.input), bag(row.output)) for row in splits.train]
    for row in (*splits.validation, *splits.test):
        mine = bag(row.input), bag(row.output)
        for other in train:
            for a, b in zip(mine, other, strict=True):
                both = len(a & b)
                assert both <= 0.45 * (len(a) + len(b) - both), row.id


def test_references_keep_debians_rules(splits: Splits) -> None:
    for side in (splits.train, splits.validation, splits.test):
        kept = [
            row
            for row in side
            if len(row.output) <= 80
            and row.output[-1] != "."
            and row.output.split()[0].lower() not in ("a", "an", "the")
            and not row.output.lower().startswith(str(row.fields["package"]))
        ]
        assert len(kept) >= 0.97 * len(side)


def test_notice_says_how_many_rows_there_are(splits: Splits) -> None:
    total = len(splits.train) + len(splits.validation) + len(splits.test)
    assert f"{total:,} packages" in " ".join((FOLDER / "NOTICE").read_text().split())
    assert f"{total:,} rows" in (FOLDER / "README.md").read_text()


@pytest.fixture(scope="module")
def extract() -> ModuleType:
    spec = importlib.util.spec_from_file_location("synopses_extract", FOLDER / "extract.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["synopses_extract"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_extractor_reads_stanzas(extract: ModuleType) -> None:
    translation = (
        "Package: foo\nDescription-md5: 1\nDescription-en: does  things\n Foo does\n things well.\n .\n"
        " This package contains foo.\n\nPackage: bar\nDescription-en: x y\n Bar has\n  * a list\n"
    )
    first, second = extract.stanzas(translation)
    assert first["Description-en"][0] == "does  things"
    assert extract.clean_description(first["Description-en"][1:]) == "Foo does things well."
    assert extract.clean_description(second["Description-en"][1:]) is None
    assert extract.clean_description(["No end"]) is None


@pytest.mark.parametrize(
    "source, family",
    [("foo", "foo"), ("foo-data", "foo"), ("libfoo2", "foo"), ("python-foo", "foo"), ("foo3.1", "foo"),
     ("gnome-maps", "gnome-maps"), ("gtk-x", "gtk-x"), ("7zip", "7zip"), ("2048", "2048")],
)  # fmt: skip
def test_families(extract: ModuleType, source: str, family: str) -> None:
    assert extract.family_of(source) == family


def test_extractor_end_to_end(
    extract: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(f"word{n}" for n in range(30)) + "."
    other = " ".join(f"thing{n}" for n in range(30)) + "."
    packages = "\n\n".join(
        f"Package: {name}\n{source}Section: {section}\nVersion: 1"
        for name, source, section in [
            ("alpha", "", "games"), ("alpha-next", "Source: alpha\n", "games"), ("gamma", "", "net"),
            ("libbeta1", "Source: beta (1)\n", "libs"), ("copy", "", "net"),
        ]
    )  # fmt: skip
    translation = "\n\n".join(
        f"Package: {name}\nDescription-en: {synopsis}\n {description}"
        for name, synopsis, description in [
            ("alpha", "game of letters", text), ("alpha-next", "another thing altogether", other),
            ("libbeta1", "a library", other), ("gamma", "Reads the mail", other), ("copy", "entirely different", text),
        ]
    )  # fmt: skip
    (tmp_path / "Packages").write_text(packages)
    (tmp_path / "Translation-en").write_text(translation)
    arguments = ["--translation", str(tmp_path / "Translation-en"), "--packages", str(tmp_path / "Packages")]
    monkeypatch.setattr(sys, "argv", ["extract.py", *arguments, "--out", str(tmp_path), "--release", "r"])
    extract.main()
    test = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    assert {row["family"] for row in test} <= {"alpha", "gamma", "copy"}
    assert len(test) == 2  # alpha and copy say the same, alpha-next and gamma too; the library is not wanted
    assert all(row["id"] == f"r/{row['package']}" for row in test)
    assert "4 usable packages" in capsys.readouterr().out
