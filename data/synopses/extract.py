#!/usr/bin/env python3
"""Make train.jsonl, validation.jsonl and test.jsonl from a Debian package index.

On a Debian system, as root, then as anyone:

    apt-get update -o Acquire::Languages=en
    python data/synopses/extract.py                       # writes beside this file

or from index files that are already on disk (plain text, or anything apt can unpack):

    python data/synopses/extract.py --translation Translation-en --packages Packages

The Translation-en index holds the texts; the Packages index says which source package and section each belongs to.
The same indexes always give the same files. What is kept, and why, is described in README.md beside this file.
Only the standard library is used. Nothing is downloaded: that is apt's part.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

NUM_TEST, NUM_VALIDATION, NUM_TRAIN = 300, 200, 1150
MAX_TRAIN_ROWS_PER_FAMILY = 2
DESCRIPTION_WORDS = range(25, 61)
SYNOPSIS_WORDS = range(2, 13)
NEAR_DUPLICATE = 0.45  # word Jaccard of two descriptions, or of two synopses, above which they count as one

APPLICATION_SECTIONS = frozenset(
    {
        "admin", "comm", "database", "devel", "editors", "education", "electronics", "games", "gnome",
        "graphics", "hamradio", "httpd", "kde", "mail", "math", "misc", "net", "news", "otherosfs", "science",
        "shells", "sound", "text", "utils", "vcs", "video", "web", "x11", "xfce"
    }
)  # fmt: skip
NOT_AN_APPLICATION = re.compile(
    r"^(lib|python3?-|ruby-|node-|golang-|r-(cran|bioc|other)-|php-|elpa-|emacs-|fonts-|gcc-|g\+\+-|linux-|task-|tex|"
    r"haskell-|ghc|rust-|puppet-module-|pd-|lv2-|gir1|ocaml|erlang-|vim-|gap-|octave-|qml|dict-|aspell-|hunspell-|"
    r"education-|med-|science-|progress-linux|openmpi)"
    r"|(-|_)(dev|dbg|dbgsym|doc|docs|data|common|config|base|bin|core|extras?|examples?|plugins?|modules?|utils?|l10n|i18n|"
    r"theme|themes|icon-theme|headers|source|all|full|udeb|el|perl|server|client|tests?|testsuite|maps|music|levels|"
    r"applet|addons?|runtime|tools|dkms|nox|gtk\d?|qt\d?|gui|cli|x11|sdl\d?|mysql|pgsql|sqlite3?|lite|backend)"
    r"(-|$|\d)"
)
UNWANTED_TEXT = re.compile(
    r"https?:|www\.|\btransitional\b|\bdummy\b|\bmeta-?package\b|\bempty package\b|\bvirtual package\b|\bobsolete\b|"
    r"\bdeprecated\b|\bsafely removed\b|\bdebug(ging)? symbols\b|[^\x20-\x7e]|[{}\[\]<>|`\\]",
    re.IGNORECASE,
)
ABOUT_PACKAGING = re.compile(r"^(This|The)( \S+)? package\b|^This is (a|the) \S+ package\b", re.IGNORECASE)
GENERIC_ROOTS = frozenset(
    {
        "apache", "apt", "bio", "build", "dh", "free", "gnome", "gnu", "gtk", "java", "kde", "lx", "open",
        "php", "qt", "x", "xfce", "xml"
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    id: str
    package: str
    family: str
    description: str
    synopsis: str


def stanzas(text: str) -> Iterator[dict[str, list[str]]]:
    """The paragraphs of an index: field name -> its lines, continuation lines without their leading space."""
    for block in text.split("\n\n"):
        fields: dict[str, list[str]] = {}
        lines: list[str] = []
        for line in block.splitlines():
            if line.startswith(" "):
                lines.append(line[1:])
            elif ":" in line:
                name, _, value = line.partition(":")
                lines = fields.setdefault(name, [])
                lines.append(value.strip())
        if fields:
            yield fields


def clean_description(lines: list[str]) -> str | None:
    """The long description as one flowing text, or None if it has lists or verbatim lines that cannot flow.

    A line holding only "." separates paragraphs and a line that starts with a further space is verbatim. Paragraphs
    about the packaging ("This package contains ...") are left out.
    """
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line.strip() == ".":
            paragraphs.append([])
        elif line.startswith((" ", "\t")) or re.match(r"([*+o#-]|\d+[.)])\s", line):
            return None
        else:
            paragraphs[-1].append(line.strip())
    texts = [" ".join(" ".join(paragraph).split()) for paragraph in paragraphs if paragraph]
    text = " ".join(text for text in texts if not ABOUT_PACKAGING.match(text))
    return text if text.endswith((".", "!", "?")) else None


def family_of(source: str) -> str:
    """What near-duplicates share: the source package's name without language prefix, variant and version."""
    name = re.sub(r"^(lib|python3?-|ruby-|node-|golang-|r-cran-|gnome-shell-extension-|xfce4-)", "", source)
    parts = name.split("-")
    num_parts = 2 if parts[0] in GENERIC_ROOTS or len(parts[0]) < 3 else 1
    root = "-".join(parts[:num_parts])
    return re.sub(r"[\d.+]+$", "", root) or root


def is_wanted(package: str, section: str, description: str, synopsis: str) -> bool:
    """An application with a short flowing description and a synopsis that is not about one of several variants."""
    return (
        section in APPLICATION_SECTIONS
        and not NOT_AN_APPLICATION.search(package)
        and len(description.split()) in DESCRIPTION_WORDS
        and len(synopsis.split()) in SYNOPSIS_WORDS
        and not UNWANTED_TEXT.search(description)
        and not UNWANTED_TEXT.search(synopsis)
        and "(" not in synopsis
        and description[0].isalpha()
    )


def candidates(translation: str, packages: str, release: str) -> Iterator[Row]:
    """Every usable package once, in the index's order."""
    known: dict[str, tuple[str, str]] = {}
    for fields in stanzas(packages):
        name = fields["Package"][0]
        known.setdefault(name, (fields.get("Source", [name])[0].split(" ")[0], fields.get("Section", [""])[0]))
    seen: set[str] = set()
    for fields in stanzas(translation):
        package = fields["Package"][0]
        if package in seen or package not in known or "Description-en" not in fields:
            continue
        seen.add(package)
        source, section = known[package]
        synopsis = " ".join(fields["Description-en"][0].split())
        description = clean_description(fields["Description-en"][1:])
        if description and is_wanted(package, section, description, synopsis):
            yield Row(f"{release}/{package}", package, family_of(source), description, synopsis)


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", text.lower()))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Size of the intersection over size of the union."""
    return len(a & b) / max(len(a | b), 1)


def split(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Test, validation and train, each family in one of them only, ordered by a hash of the family's name.

    Held-out families give one row each, so that rows are independent. A row that nearly repeats any row taken
    before it is left out, which makes the three files free of near-duplicates within and across.
    """
    families: dict[str, list[Row]] = {}
    for row in rows:
        families.setdefault(row.family, []).append(row)
    splits: dict[str, list[Row]] = {"test": [], "validation": [], "train": []}
    quotas = {"test": NUM_TEST, "validation": NUM_VALIDATION, "train": NUM_TRAIN}
    taken: list[tuple[frozenset[str], frozenset[str]]] = []
    for family in sorted(families, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        name = next((name for name in splits if len(splits[name]) < quotas[name]), None)
        if name is None:
            break
        limit = min(MAX_TRAIN_ROWS_PER_FAMILY, quotas[name] - len(splits[name])) if name == "train" else 1
        for row in sorted(families[family], key=lambda row: (len(row.package), row.package)):
            pair = words(row.description), words(row.synopsis)
            if any(jaccard(pair[0], d) > NEAR_DUPLICATE or jaccard(pair[1], s) > NEAR_DUPLICATE for d, s in taken):
                continue
            taken.append(pair)
            splits[name].append(row)
            limit -= 1
            if limit == 0:
                break
    return splits


def passes_synopsis_rules(row: Row) -> bool:
    """Debian's rules for a synopsis: at most 80 characters, no final period, no leading article, no package name."""
    synopsis = row.synopsis
    return (
        len(synopsis) <= 80
        and not synopsis.endswith(".")
        and not re.match(r"(a|an|the)\s", synopsis, re.IGNORECASE)
        and not synopsis.lower().startswith(row.package.lower())
    )


def apt_index(kind: str, suffix: str) -> Path:
    """The file of this system's main archive (not its updates or security part) that apt has fetched last."""
    command = ["apt-get", "indextargets", "-o", "Acquire::Languages=en", "--format"]
    command += ["$(CREATED_BY)|$(COMPONENT)|$(RELEASE)|$(FILENAME)"]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for line in listing.splitlines():
        created_by, component, release, filename = line.split("|")
        if (created_by, component) == (kind, "main") and not re.search(r"[-/]", release) and suffix in filename:
            return Path(filename)
    sys.exit(f"apt knows no {suffix} index. Run first: apt-get update -o Acquire::Languages=en")


def read_index(path: Path) -> str:
    """The text of an index, unpacked by apt's own helper when it is compressed."""
    if not path.is_file():
        sys.exit(f"{path} does not exist. Run first: apt-get update -o Acquire::Languages=en")
    if path.suffix in (".lz4", ".xz", ".gz", ".bz2", ".zst"):
        command = ["/usr/lib/apt/apt-helper", "cat-file", str(path)]
        return subprocess.run(command, check=True, capture_output=True).stdout.decode("utf-8")
    return path.read_text(encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the synopsis rows from a Debian package index.")
    parser.add_argument("--translation", type=Path, help="a Translation-en file (default: the one apt has fetched)")
    parser.add_argument("--packages", type=Path, help="a Packages file (default: the one apt has fetched)")
    parser.add_argument("--release", default="bookworm", help="the release's name, first part of each row's id")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the three files are written")
    arguments = parser.parse_args()
    translation = read_index(arguments.translation or apt_index("Translations", "Translation-en"))
    packages = read_index(arguments.packages or apt_index("Packages", "Packages"))
    rows = list(candidates(translation, packages, arguments.release))
    print(f"{len(rows)} usable packages")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, chosen in split(rows).items():
        path = arguments.out / f"{name}.jsonl"
        chosen = sorted(chosen, key=lambda row: hashlib.sha256(row.id.encode()).hexdigest())
        text = "".join(json.dumps(asdict(row)) + "\n" for row in chosen)
        path.write_text(text, encoding="utf-8")
        share = sum(map(passes_synopsis_rules, chosen)) / max(len(chosen), 1)
        print(f"{path.name}: {len(chosen)} rows, {len(text)} bytes, {share:.1%} pass Debian's synopsis rules")


if __name__ == "__main__":
    main()
