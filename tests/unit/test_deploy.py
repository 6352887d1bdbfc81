"""The Kubernetes manifests against the schema that the operator publishes, and against the rest of the project."""

from __future__ import annotations

import copy
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CRDS = Path(os.environ.get("RLFT_CRDS") or ROOT.parent / "shared" / "crds")
MANIFESTS = sorted((ROOT / "deploy").rglob("*.yaml"))


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with unknown keys forbidden: the API server would drop a misspelt key without a word."""
    schema = copy.copy(schema)
    if "properties" in schema:
        schema["properties"] = {key: strict(value) for key, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    if isinstance(schema.get("items"), dict):
        schema["items"] = strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = strict(schema["additionalProperties"])
    return schema


def schema_of(kind: str, version: str) -> dict[str, Any]:
    path = CRDS / f"ray.io_{kind.lower()}s.yaml"
    if not path.is_file():
        pytest.skip(f"no resource definition {path}: set RLFT_CRDS to KubeRay's folder of them")
    definition = yaml.safe_load(path.read_text(encoding="utf-8"))
    (found,) = [entry for entry in definition["spec"]["versions"] if entry["name"] == version]
    schema = strict(found["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    return schema


def load(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return manifest


def test_there_is_a_manifest() -> None:
    assert ROOT / "deploy" / "kuberay" / "rayjob.yaml" in MANIFESTS


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifest_fits_the_operators_schema(path: Path) -> None:
    manifest = load(path)
    group, version = manifest["apiVersion"].split("/")
    if group != "ray.io":
        pytest.skip(f"{path.name} is a {manifest['apiVersion']}, not one of KubeRay's")
    schema = schema_of(manifest["kind"], version)
    jsonschema.validate(manifest, schema)


def test_the_schema_test_sees_a_misspelt_key() -> None:
    manifest = load(ROOT / "deploy" / "kuberay" / "rayjob.yaml")
    schema = schema_of("RayJob", "v1")
    manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replica"] = 2
    with pytest.raises(jsonschema.ValidationError, match="replica"):
        jsonschema.validate(manifest, schema)


def test_the_manifest_runs_the_ray_of_the_lock() -> None:
    wanted = load(ROOT / "deploy" / "kuberay" / "rayjob.yaml")["spec"]["rayClusterSpec"]["rayVersion"]
    for lock in ("cpu", "gpu"):
        text = (ROOT / "requirements" / f"{lock}.txt").read_text(encoding="utf-8")
        assert f"\nray=={wanted}\n" in text


def test_image_tags_carry_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    for path in [*MANIFESTS, ROOT / "docker" / "Dockerfile", ROOT / "deploy" / "README.md"]:
        tags = re.findall(r"rlft:(\d[\w.]*)-[cg]pu", path.read_text(encoding="utf-8"))
        assert tags, f"{path.name} names no image"
        assert set(tags) == {version}


def test_every_recipe_that_a_manifest_runs_exists() -> None:
    for path in MANIFESTS:
        for recipe in re.findall(r"rlft run (recipes/\S+)", path.read_text(encoding="utf-8")):
            assert (ROOT / recipe).is_file(), f"{path.name} runs {recipe}"
