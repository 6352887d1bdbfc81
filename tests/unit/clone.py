"""Which files a clone of the project has: what lies here besides, made by some command, is not there for a stranger."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def files_in_a_clone() -> list[str]:
    """Names of everything that is, or would be, in a clone; the test is skipped where there is no git to tell."""
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    if listing.returncode:
        pytest.skip("not in a git clone: there is no list of the project's files")
    return [name for name in listing.stdout.decode().split("\0") if (ROOT / name).is_file()]
