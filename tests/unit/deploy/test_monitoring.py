"""What Prometheus is told to read and to watch, against what is exported."""

from __future__ import annotations

import re

import yaml

from services.observe.dashboard import exported_names
from tests.unit.deploy.support import DEPLOY, load_all, render

MONITORING = DEPLOY / "monitoring"


def test_alerts_are_about_metrics_that_are_exported_and_labels_that_they_keep() -> None:
    (content,) = load_all(MONITORING / "alerts.yaml")
    (group,) = content["groups"]
    names = {name for rule in group["rules"] for name in re.findall(r"\bray_\w+", rule["expr"])}
    assert len(names) == len(group["rules"]) == 4
    assert sorted(names - set(exported_names())) == []
    for rule in group["rules"]:
        (kept,) = re.findall(r"by \(([\w, ]+)\)", rule["expr"])
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) == set(kept.split(", "))


def test_prometheus_reads_the_alerts_that_lie_beside_its_file() -> None:
    (content,) = load_all(MONITORING / "prometheus.yaml")
    assert [name for name in content["rule_files"] if not (MONITORING / name).is_file()] == []


def test_the_pod_monitor_asks_for_ports_and_labels_that_rays_pods_have() -> None:
    (monitor,) = load_all(MONITORING / "podmonitor.yaml")
    cluster, *_ = [one for one in render(DEPLOY / "kuberay" / "base" / "cluster") if one["kind"] == "RayCluster"]
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert {one["port"] for one in monitor["spec"]["podMetricsEndpoints"]} <= {port["name"] for port in head["ports"]}
    policies = yaml.safe_load_all((DEPLOY / "kuberay" / "base" / "shared" / "network-policy.yaml").read_text())
    assert monitor["spec"]["selector"] == next(iter(policies))["spec"]["podSelector"]
