"""What the tests of deploy/ share: schemas, overlays put together, and shell snippets out of documents."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
CRDS = Path(os.environ.get("RLFT_CRDS") or ROOT.parent / "shared" / "crds")
PLACES = ("kind-cpu", "gpu")
PARTS = ("shared", "cluster", "job", "serve")
RENDERED = [f"overlays/{place}/{part}" for place in PLACES for part in PARTS] + ["kueue"]

Manifest = dict[str, Any]


def load_all(path: Path) -> list[Manifest]:
    """Every document of a YAML file. What an anchor repeats becomes a copy, so that a patch changes one place."""
    found = yaml.load_all(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    return [json.loads(json.dumps(one)) for one in found if one]


# Schemas


def strict(schema: Manifest) -> Manifest:
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


@cache
def schema_of(kind: str, version: str = "v1") -> Manifest:
    """The schema of one of KubeRay's resources, as its operator publishes it: a megabyte, so it is read once."""
    path = CRDS / f"ray.io_{kind.lower()}s.yaml"
    if not path.is_file():
        pytest.skip(f"no resource definition {path}: set RLFT_CRDS to KubeRay's folder of them")
    definition = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    (found,) = [entry for entry in definition["spec"]["versions"] if entry["name"] == version]
    schema = strict(found["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object", "required": ["name", "namespace"]}
    return schema


def fits(found: Any, schema: Manifest) -> None:
    """Raise ValidationError when it does not fit. The schema itself is the operator's: it is not checked every time."""
    for error in jsonschema.Draft202012Validator(schema).iter_errors(found):
        raise error


def at(schema: Manifest, *keys: str) -> Manifest:
    """The schema below some keys; `[]` goes into the items of a list."""
    for key in keys:
        schema = schema["items"] if key == "[]" else schema["properties"][key]
    return schema


# Overlays


def render(folder: Path) -> list[Manifest]:
    """What `kubectl kustomize` makes of a folder, of the few means that ours use: resources, JSON patches, images."""
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    assert set(plan) <= {"apiVersion", "kind", "resources", "patches", "images"}, folder
    found: list[Manifest] = []
    for name in plan["resources"]:
        path = folder / name
        found += render(path.resolve()) if path.is_dir() else load_all(path)
    for patch in plan.get("patches", []):
        named = {(one["kind"], one["metadata"]["name"]): one for one in found}
        target = named[patch["target"]["kind"], patch["target"]["name"]]
        for operation in yaml.safe_load(patch["patch"]):
            apply(target, **operation)
    for image in plan.get("images", []):
        for container in containers(found):
            if container["image"].partition(":")[0] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
    return found


def apply(document: Any, *, op: str, path: str, value: Any = None) -> None:
    """One operation of a JSON patch (RFC 6902): add, replace or remove."""
    *way, last = (key.replace("~1", "/").replace("~0", "~") for key in path.split("/")[1:])
    for key in way:
        document = document[int(key) if isinstance(document, list) else key]
    at_key = int(last) if isinstance(document, list) else last
    if op == "remove":
        del document[at_key]
        return
    if op == "replace":
        document[at_key]  # it must be there
    else:
        assert op == "add", op
        assert isinstance(document, dict), f"{path}: only keys are added"
    document[at_key] = copy.deepcopy(value)


def containers(found: Any) -> Iterator[Manifest]:
    """Every container, wherever it stands."""
    if isinstance(found, list):
        for one in found:
            yield from containers(one)
    elif isinstance(found, dict):
        for key, value in found.items():
            if key in ("containers", "initContainers"):
                yield from value
            else:
                yield from containers(value)


def ray_cluster(manifest: Manifest) -> Manifest:
    """The cluster's part of a RayCluster, a RayJob or a RayService."""
    spec: Manifest = manifest["spec"]
    part: Manifest = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    return part


# Documents


def snippets(text: str) -> Iterator[tuple[int, str]]:
    """(line, shell text) of every fenced block that is shell; of a console's block, only what is typed after `$`."""
    for block in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL):
        indent, language, body = block.groups()
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        typed = typed_in(lines)
        if language in ("bash", "sh") or typed:
            yield text[: block.start()].count("\n") + 2, "\n".join(typed or lines)


def typed_in(lines: list[str]) -> list[str]:
    """Lines after a prompt, and those that go on with one that ends in a backslash."""
    typed: list[str] = []
    for line in lines:
        if line.startswith("$ "):
            typed.append(line[2:])
        elif typed and typed[-1].endswith("\\"):
            typed.append(line)
    return typed
