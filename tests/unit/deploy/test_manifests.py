"""The Kubernetes manifests, put together as they are applied: against schemas, KubeRay's own rules, and each other."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.unit.deploy.support import (
    DEPLOY,
    PARTS,
    RENDERED,
    ROOT,
    Manifest,
    apply,
    at,
    containers,
    fits,
    load_all,
    ray_cluster,
    render,
    schema_of,
)

KUBERAY = DEPLOY / "kuberay"
BASES = [f"base/{part}" for part in PARTS]
RAY_KINDS = ("RayCluster", "RayJob", "RayService")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def of_kind(folder: str, *kinds: str) -> list[Manifest]:
    return [found for found in render(KUBERAY / folder) if found["kind"] in kinds]


def ray_manifests() -> list[Any]:
    return [
        pytest.param(found, id=f"{folder}:{found['kind']}")
        for folder in [*BASES, *RENDERED]
        for found in of_kind(folder, *RAY_KINDS)
    ]


def test_every_file_is_part_of_something_that_is_applied() -> None:
    files = {path for path in KUBERAY.rglob("*.yaml") if path.name != "kustomization.yaml"}
    used = set()
    for plan in KUBERAY.rglob("kustomization.yaml"):
        names = yaml.safe_load(plan.read_text(encoding="utf-8"))["resources"]
        used |= {(plan.parent / name).resolve() for name in names if name.endswith(".yaml")}
    assert files == used
    assert {path.parent.relative_to(KUBERAY).as_posix() for path in KUBERAY.rglob("kustomization.yaml")} == {
        *BASES,
        *RENDERED,
    }


# Schemas


@pytest.mark.parametrize("manifest", ray_manifests())
def test_rays_resources_fit_the_operators_schema(manifest: Manifest) -> None:
    assert manifest["apiVersion"] == "ray.io/v1"
    fits(manifest, schema_of(manifest["kind"]))


@pytest.mark.parametrize("folder", RENDERED)
def test_plain_resources_fit_the_schemas_that_the_operators_definitions_hold_copies_of(folder: str) -> None:
    head = at(schema_of("RayCluster"), "spec", "headGroupSpec", "template")
    claim = at(head, "spec", "volumes", "[]", "ephemeral", "volumeClaimTemplate", "spec")
    rule = at(schema_of("RayCluster"), "spec", "networkPolicy", "head", "ingressRules", "[]")
    selector = at(rule, "from", "[]", "podSelector")
    for found in of_kind(folder, "Job", "Deployment"):
        fits(found["spec"]["template"], head)
    for found in of_kind(folder, "PersistentVolumeClaim"):
        fits(found["spec"], claim)
    for found in of_kind(folder, "NetworkPolicy"):
        assert set(found["spec"]) == {"podSelector", "policyTypes", "ingress"}
        fits(found["spec"]["podSelector"], selector)
        for one in found["spec"]["ingress"]:
            fits(one, rule)


def test_the_schema_test_sees_a_misspelt_key() -> None:
    (manifest,) = of_kind("overlays/gpu/job", "RayJob")
    manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replica"] = 2
    with pytest.raises(jsonschema.ValidationError, match="replica"):
        fits(manifest, schema_of("RayJob"))


@pytest.mark.parametrize("folder", RENDERED)
def test_our_reading_of_an_overlay_is_kustomizes(folder: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl on this machine")
    said = subprocess.run(
        ["kubectl", "kustomize", str(KUBERAY / folder)], capture_output=True, text=True, check=True, timeout=60
    ).stdout

    def by_name(found: list[Manifest]) -> dict[tuple[str, str], Manifest]:
        return {(one["kind"], one["metadata"]["name"]): one for one in found}

    assert by_name(render(KUBERAY / folder)) == by_name([one for one in yaml.safe_load_all(said) if one])


def test_a_patch_does_not_make_up_what_it_replaces() -> None:
    document = {"a": [{"b/c": 1}]}
    apply(document, op="replace", path="/a/0/b~1c", value=2)
    apply(document, op="add", path="/a/0/d", value=[3])
    assert document == {"a": [{"b/c": 2, "d": [3]}]}
    apply(document, op="remove", path="/a/0/d")
    with pytest.raises(KeyError):
        apply(document, op="replace", path="/a/0/d", value=1)


# Rules that no schema knows


@pytest.mark.parametrize("manifest", ray_manifests())
def test_the_rules_of_the_operator_are_kept(manifest: Manifest) -> None:
    cluster = ray_cluster(manifest)
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "rlft-ray-token"}
    assert head["rayStartParams"]["num-cpus"] == "0"
    names = [worker["groupName"] for worker in workers]
    assert len(names) == len(set(names))
    for worker in workers:
        assert 0 <= worker["minReplicas"] <= worker["replicas"] <= worker["maxReplicas"]
    for group in (head, *workers):
        assert "restartPolicy" not in group["template"]["spec"]  # autoscaler v2 wants to decide
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert {"cpu", "memory"} <= set(limits)
    if cluster["enableInTreeAutoscaling"]:
        assert cluster["autoscalerOptions"]["version"] == "v2"


@pytest.mark.parametrize("manifest", ray_manifests())
def test_it_runs_the_ray_of_the_lock(manifest: Manifest) -> None:
    wanted = ray_cluster(manifest)["rayVersion"]
    for lock in ("cpu", "gpu"):
        text = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
        assert f"\nray=={wanted}\n" in text


@pytest.mark.parametrize("folder", RENDERED)
def test_images_are_of_this_version_and_of_the_places_device(folder: str) -> None:
    device = "cpu" if "kind-cpu" in folder else "gpu"
    assert {one["image"] for one in containers(render(KUBERAY / folder))} == {f"rlft:{VERSION}-{device}"}


@pytest.mark.parametrize("folder", RENDERED)
def test_no_container_is_root_or_may_become_it(folder: str) -> None:
    found = render(KUBERAY / folder)
    for container in containers(found):
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    for spec in pod_specs(found):
        assert spec["securityContext"]["runAsUser"] == 1000
        assert spec["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize("folder", RENDERED)
def test_every_mount_has_its_volume_and_every_claim_and_secret_a_known_name(folder: str) -> None:
    for spec in pod_specs(render(KUBERAY / folder)):
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        mounted = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
        assert mounted == set(volumes)
        assert volumes["shared"]["persistentVolumeClaim"] == {"claimName": "rlft-shared"}
        if "keys" in volumes:
            assert volumes["keys"]["secret"] == {"secretName": "rlft-api-keys", "defaultMode": 0o440}


def pod_specs(found: list[Manifest]) -> list[Manifest]:
    specs = []
    for one in found:
        if one["kind"] in RAY_KINDS:
            cluster = ray_cluster(one)
            specs += [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
        elif one["kind"] in ("Job", "Deployment"):
            specs.append(one["spec"]["template"]["spec"])
    return specs


def test_everything_lives_in_one_namespace_and_under_one_name() -> None:
    for folder in RENDERED:
        found = render(KUBERAY / folder)
        apart = {"Namespace", "ClusterQueue", "ResourceFlavor"}
        assert {one["metadata"].get("namespace") for one in found if one["kind"] not in apart} == {"rlft"}
        names = [(one["kind"], one["metadata"]["name"]) for one in found]
        assert len(names) == len(set(names))


def test_a_run_and_the_standing_cluster_have_the_same_pods() -> None:
    for place in ("base", "overlays/kind-cpu", "overlays/gpu"):
        (cluster,) = of_kind(f"{place}/cluster", "RayCluster")
        (job,) = of_kind(f"{place}/job", "RayJob")
        assert cluster["spec"] == job["spec"]["rayClusterSpec"]


def test_the_operator_puts_the_entrypoint_into_a_script_so_it_is_one_plain_command() -> None:
    for folder in ("overlays/kind-cpu/job", "overlays/gpu/job", "kueue"):
        (job,) = of_kind(folder, "RayJob")
        entrypoint = job["spec"]["entrypoint"]
        assert entrypoint.startswith("env --chdir=/home/rlft/app rlft run recipes/")
        assert set(entrypoint) & set(";&|<>$`\"'\n#()") == set()


def test_policies_speak_of_labels_and_ports_that_are_there() -> None:
    ray, viewer = of_kind("base/shared", "NetworkPolicy")
    (deployment,) = of_kind("base/cluster", "Deployment")
    (service,) = of_kind("base/cluster", "Service")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert viewer["spec"]["podSelector"]["matchLabels"] == labels == service["spec"]["selector"]
    assert ray["spec"]["podSelector"]["matchLabels"] == {"ray.io/is-ray-node": "yes"}
    (cluster,) = of_kind("base/cluster", "RayCluster")
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    there = {port["containerPort"] for port in head["ports"]} | {52365, 8000}  # the operator's own: agent, Serve
    asked = {port["port"] for rule in ray["spec"]["ingress"] for port in rule.get("ports", [])}
    assert asked <= there
    assert 6379 not in asked  # only Ray's nodes reach the head's own port


def test_the_queue_has_room_for_the_run_that_it_is_for() -> None:
    (queue,) = of_kind("kueue", "ClusterQueue")
    quota = {one["name"]: one["nominalQuota"] for one in queue["spec"]["resourceGroups"][0]["flavors"][0]["resources"]}
    (job,) = of_kind("kueue", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is False
    assert "autoscalerOptions" not in cluster
    groups = [(1, cluster["headGroupSpec"]), *((group["replicas"], group) for group in cluster["workerGroupSpecs"])]
    for name, of_one in (("cpu", float), ("nvidia.com/gpu", float), ("memory", lambda size: float(size[:-2]))):
        asked = sum(
            count * of_one(_requests(group).get(name, "0Gi" if name == "memory" else "0")) for count, group in groups
        )
        assert asked <= of_one(quota[name]), name


def _requests(group: Manifest) -> dict[str, str]:
    found: dict[str, str] = group["template"]["spec"]["containers"][0]["resources"]["requests"]
    return found


# Serving, and Ray's own launcher


def test_the_operator_finds_the_ports_by_their_names() -> None:
    for folder, kind in (("base/cluster", "RayCluster"), ("base/job", "RayJob"), ("base/serve", "RayService")):
        (manifest,) = of_kind(folder, kind)
        head = ray_cluster(manifest)["headGroupSpec"]["template"]["spec"]["containers"][0]
        ports = {port["name"]: port["containerPort"] for port in head["ports"]}
        wanted = {"gcs-server": 6379, "client": 10001, "dashboard": 8265, "metrics": 8080}
        assert wanted.items() <= ports.items()
        if kind == "RayService":
            assert ports["serve"] == yaml.safe_load(manifest["spec"]["serveConfigV2"])["http_options"]["port"]


def test_names_in_the_guide_are_those_of_resources_or_of_what_the_operator_makes_of_them() -> None:
    found = [one for part in PARTS for one in render(KUBERAY / "base" / part)]
    names = {f"{one['kind'].lower()}/{one['metadata']['name']}" for one in found}
    names |= {f"service/{one['metadata']['name']}-head-svc" for one in found if one["kind"] == "RayCluster"}
    names |= {f"service/{one['metadata']['name']}-serve-svc" for one in found if one["kind"] == "RayService"}
    names |= {f"job/{one['metadata']['name']}" for one in found if one["kind"] == "RayJob"}
    names |= {name.replace("deployment/", "deploy/") for name in names}
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    asked = set(re.findall(r"\b(?:service|job|raycluster|rayservice|rayjob|deploy)/rlft[\w-]*", text))
    assert len(asked) >= 8
    assert sorted(asked - names) == []
    secrets = set(re.findall(r"create secret generic ([\w-]+)", text))
    assert secrets == {"rlft-ray-token", "rlft-api-keys", "rlft-secrets"}


@pytest.mark.parametrize("place, gpu", [("kind-cpu", False), ("gpu", True)])
def test_the_serve_configuration_fits_ray_serves_own_schema_and_ours(place: str, gpu: bool) -> None:
    from ray.serve.schema import ServeDeploySchema

    from services.serving.declared import DeclaredService, build

    (service,) = of_kind(f"overlays/{place}/serve", "RayService")
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    parsed = ServeDeploySchema.model_validate(config)
    (application,) = parsed.applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    assert DeclaredService.model_validate(application.args).gpu is gpu
    mounts = {mount["mountPath"] for spec in pod_specs([service]) for mount in spec["containers"][0]["volumeMounts"]}
    assert application.args["runs_dir"] in mounts
    assert str(Path(application.args["keys"]).parent) in mounts


def test_the_launchers_file_is_one_that_the_launcher_takes() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    (content,) = load_all(DEPLOY / "ray-cluster.yaml")
    config = prepare_config(copy.deepcopy(content))
    validate_config(config)
    assert config["max_workers"] == len(content["provider"]["worker_ips"])
    starts = [*content["head_start_ray_commands"], *content["worker_start_ray_commands"], *content["setup_commands"]]
    for command in starts:
        subprocess.run(["bash", "-n", "-c", command], check=True, timeout=60)
    # What pods are given is given here too.
    (cluster,) = of_kind("base/cluster", "RayCluster")
    env = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    for start in (content["head_start_ray_commands"][1], content["worker_start_ray_commands"][1]):
        assert "RAY_AUTH_MODE=token" in start
        assert [one["name"] for one in env if f"{one['name']}={one['value']}" not in start] == []
