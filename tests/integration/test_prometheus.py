"""A step's numbers on the metrics port of a real Ray node, as Prometheus would read them."""

from __future__ import annotations

import math
import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from services.observe.dashboard import MACHINES
from services.observe.metric_table import TABLE, Metric
from services.observe.ray_metrics import RayMetrics
from services.observe.sinks import RunInfo

_DEADLINE_S = 60.0


def scraped(until: str) -> str:
    """What this node's agent tells, once it tells of `until`."""
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    end = time.monotonic() + _DEADLINE_S
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                text = str(answer.read(), "utf-8")
        except OSError:  # the agent is still starting
            text = ""
        if until in text:
            return text
        assert time.monotonic() < end, f"{address} did not tell of {until} within {_DEADLINE_S:g} s:\n{text[-2000:]}"
        time.sleep(0.5)


def values(text: str, name: str, **labels: str) -> list[float]:
    """What the series of this name and these labels say, where they say a number."""
    lines = [line for line in text.splitlines() if line.startswith(name + "{")]
    found = [line for line in lines if all(f'{key}="{told}"' in line for key, told in labels.items())]
    numbers = [float(line.rsplit(" ", 1)[1]) for line in found]
    return [number for number in numbers if not math.isnan(number)]


@pytest.mark.integration
def test_a_step_stands_on_the_metrics_port_with_run_and_stage(cluster: None, tmp_path: Path) -> None:
    sink = RayMetrics()
    sink.start(RunInfo("scraped", tmp_path))
    every = {_example(metric): 0.25 for metric in TABLE if metric.path != "step"}
    sink.log(0, every | {"tokens/generated": 100.0, "kl/mean": float("nan")}, "ppo")
    sink.log(1, {"reward/mean": -0.5, "tokens/generated": 20.0, "time/step_s": 1.5, "new/number": 7.0}, "ppo")
    text = scraped(until="ray_rlft_other{")
    of = {"run": "scraped", "stage": "ppo"}
    assert values(text, "ray_rlft_step", **of) == [2]
    assert values(text, "ray_rlft_reward_mean", **of) == [-0.5]
    assert values(text, "ray_rlft_phase_seconds", phase="example", **of) == [0.25]
    assert values(text, "ray_rlft_other", metric="new/number", **of) == [7]
    assert values(text, "ray_rlft_tokens_generated_total", **of) == [120]
    assert values(text, "ray_rlft_step_seconds_bucket", le="1.0", **of) == [1]
    assert values(text, "ray_rlft_step_seconds_bucket", le="2.5", **of) == [2]
    told = set(re.findall(r"^(ray_\w+)\{", text, re.MULTILINE))
    missing = [metric.exported for metric in TABLE if not {metric.exported, f"{metric.exported}_bucket"} & told]
    assert missing == ["ray_rlft_kl_mean"]  # it was not a number


@pytest.mark.integration
def test_the_next_stage_takes_the_last_ones_numbers_away(cluster: None, tmp_path: Path) -> None:
    sink = RayMetrics()
    sink.start(RunInfo("staged", tmp_path))
    sink.log(0, {"reward/mean": 0.5}, "ppo")
    assert values(scraped(until='run="staged"'), "ray_rlft_reward_mean", run="staged") == [0.5]
    sink.log(0, {"loss/mean": 4.0}, "dpo")
    text = scraped(until='stage="dpo"')
    assert values(text, "ray_rlft_loss_mean", run="staged") == [4]
    assert values(text, "ray_rlft_step", run="staged", stage="dpo") == [1]
    assert values(text, "ray_rlft_step", run="staged", stage="ppo") == []
    assert values(text, "ray_rlft_reward_mean", run="staged") == []


@pytest.mark.integration
def test_what_the_dashboard_shows_of_machines_is_told_by_ray(cluster: None) -> None:
    text = scraped(until="ray_node_cpu_utilization")
    assert [name for _, _, name, _ in MACHINES if name not in text and "gpu" not in name] == []


def _example(metric: Metric) -> str:
    return re.sub(r"\{\w+\}", "example", metric.path)
