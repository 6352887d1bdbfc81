"""The learner's step on a GPU, without Ray and without an engine: `python -m benchmarks.gpu_learner --out FILE`.

bfloat16 products with float32 masters; packed rows through FlexAttention against padded rows through fused causal
attention; models with random weights, made on the spot. Every section stands alone: one that fails leaves its
traceback, and the record is written after each. `--device cpu --tiny` tries the script itself where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch._dynamo.utils import counters

from benchmarks import gpu_sections as sections
from benchmarks.gpu_bench import Bench
from benchmarks.gpu_models import LARGE, LONG, SMALL, SYNOPSES

PEAK_TFLOPS = 790.0
"""Dense bfloat16 on an H200, 8192 x 8192 random matrices."""
SMALL_BUDGETS = ((4096, 0), (16384, 0), (32768, 0), (5120, 32768))
LARGE_BUDGETS = ((5120, 0), (10240, 0), (16384, 0), (32768, 0), (5120, 16384))
"""(row, batch) tokens; a group of the long experience has 4,608 on average."""
FORMULA = "3 (2 N positions + 2 V H targets + 4 D pairs layers) / seconds / peak; padding and recomputation not counted"


def plan(bench: Bench) -> Mapping[str, Callable[[], Any]]:
    """The sections in order of importance: a run that ends early has the first ones."""
    return {
        "matmul_peak": lambda: sections.matmul_peak(bench),
        "agreement_135m": lambda: sections.agreement(bench, SMALL),
        "update_135m_synopses": lambda: sections.whole_update(bench, SMALL, SYNOPSES, 1024),
        "throughput_135m": lambda: sections.throughput(bench, SMALL, LONG, SMALL_BUDGETS),
        "throughput_1.5b": lambda: sections.throughput(bench, LARGE, LONG, LARGE_BUDGETS),
        "update_1.5b": lambda: sections.whole_update(bench, LARGE, LONG, 8192),
        "update_135m": lambda: sections.whole_update(bench, SMALL, LONG, 16384),
        "masks": lambda: sections.masks(bench, (1024, 4096, 8192, 16384, 32768)),
        "row_lengths_135m": lambda: sections.row_lengths(bench, SMALL),
        "checkpointing_1.5b": lambda: sections.throughput(
            bench, LARGE, LONG, ((32768, 0),), checkpointing=True, ways=(True,)
        ),
    }


def main() -> None:
    """Run the sections that fit into `--seconds`."""
    options = parse()
    device = torch.device(options.device)
    bench = Bench(device, options.peak_tflops * 1e12, options.tiny)
    record: dict[str, Any] = {
        "hardware": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "peak_tflops": options.peak_tflops,
        "share_of_peak": FORMULA,
        "sections": {},
    }
    started = time.monotonic()
    for name, section in plan(bench).items():
        if options.only and name not in options.only:
            continue
        if time.monotonic() - started > options.seconds:
            record["sections"][name] = "left out: no time"
            continue
        print(f"== {name}", flush=True)
        began = time.monotonic()
        # A learner has one model; what an earlier section compiled must not count against this one's limit.
        torch._dynamo.reset()
        counters.clear()
        found = guarded(section)
        seconds, graphs = round(time.monotonic() - began, 1), counters["stats"].get("unique_graphs", 0)
        record["sections"][name] = {"found": found, "seconds": seconds, "compiled_graphs": graphs}
        print(f"   {seconds} s, {graphs} graphs", found if isinstance(found, dict) else "", flush=True)
        options.out.write_text(json.dumps(record, indent=1))
        if device.type == "cuda":
            torch.cuda.empty_cache()
    options.out.write_text(json.dumps(record, indent=1))


def guarded(section: Callable[[], Any]) -> Any:
    """The section's record, or its traceback: device time is too dear to lose the other sections."""
    try:
        return section()
    except Exception:  # noqa: BLE001 - whatever happened is the result
        traceback.print_exc()
        return {"failed": traceback.format_exc()[-4000:]}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu_learner", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a very small model and experience in every section")
    parser.add_argument("--only", nargs="+", metavar="SECTION")
    parser.add_argument("--seconds", type=float, default=400.0, help="start no section after this")
    parser.add_argument("--peak-tflops", type=float, default=PEAK_TFLOPS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
