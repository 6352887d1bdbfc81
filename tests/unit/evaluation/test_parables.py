"""Parables as pairs: what is read of the file, and on which side a story stands."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.parables import MEMBER, Parable, parables

ROOT = Path(__file__).resolve().parents[3]


def wheel(path: Path, *questions: tuple[str, list[str], str]) -> Path:
    lines = []
    for story, morals, right in questions:
        options = " ".join(f"{letter}) {moral}" for letter, moral in zip("ABCDE", morals, strict=False))
        asked = f"{story}\nWhich moral is this story attempting to convey? Please ... answer.\n{options}\nThe output should ..."
        lines.append({"input": [{}, {"content": asked}], "ideal": [f"The final answer is: {right}"]})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, "\n".join(json.dumps(line) for line in lines))
    return path


def test_the_right_moral_and_the_others(tmp_path: Path) -> None:
    morals = ["Wait.", "Plan A) or B works.", "Run  now.", "Be kind.", "Look."]
    found = list(parables(wheel(tmp_path / "w.whl", ("A fox\nslept.", [m.replace("A) ", "") for m in morals], "C"))))
    assert found == [Parable("A fox slept.", "Run now.", ("Wait.", "Plan or B works.", "Be kind.", "Look."))]
    with pytest.raises(ValueError, match="row 1 has 3 morals"):
        list(parables(wheel(tmp_path / "x.whl", ("A fox.", morals[2:], "A"))))


def test_a_moral_is_on_one_side_and_files_are_the_same_every_time(tmp_path: Path) -> None:
    questions = [(f"Story {k % 37}-{k}.", [f"Moral {(k % 37) + j}." for j in range(5)], "A") for k in range(200)]
    source = wheel(tmp_path / "w.whl", *questions)
    for name in ("one", "two"):
        command = [sys.executable, "-m", "benchmarks.parables", str(source), str(tmp_path / name)]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 6
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    sides = {}
    for side in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (tmp_path / "one" / f"rows-{side}.jsonl").read_text().splitlines()]
        pairs = [json.loads(line) for line in (tmp_path / "one" / f"pairs-{side}.jsonl").read_text().splitlines()]
        assert len(pairs) == len(rows) * (2 if side == "train" else 4)
        assert all(pair["chosen"] != pair["rejected"] for pair in pairs)
        sides[side] = {row["moral"] for row in rows}
    assert sum(map(len, sides.values())) == 37
    assert not sides["train"] & sides["test"]
