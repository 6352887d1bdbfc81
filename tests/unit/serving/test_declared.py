"""The service as Ray Serve's declarative configuration starts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlft_core.errors import ConfigError
from services.keys import new_key
from services.serving.app import application
from services.serving.declared import configured


@pytest.fixture
def args(runs_dir: Path, tmp_path: Path) -> dict[str, Any]:
    keys = tmp_path / "keys.txt"
    keys.write_text(new_key("a")[1].entry)
    return {
        "models": ["first", "first:reward_model"],
        "names": ["m"],
        "runs_dir": str(runs_dir),
        "state": str(tmp_path / "state.json"),
        "keys": str(keys),
    }


def test_the_arguments_of_an_application_are_those_of_rlft_serve(args: dict[str, Any]) -> None:
    config = configured(args | {"replicas": 2, "postprocess": {"max_words": 3}, "max_at_once": 7})
    assert [(served.name, served.current.label) for served in config.models] == [
        ("m", "first:sft"),
        ("first:reward_model", "first:reward_model"),
    ]
    assert (config.scaling.min_replicas, config.scaling.max_replicas, config.front.limits.max_at_once) == (2, 2, 7)
    assert config.front.postprocess is not None
    assert [key.name for key in config.front.keys.known] == ["a"]
    assert application(config) is not None


def test_what_is_wrong_is_named(args: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"args.replica: Extra inputs are not permitted"):
        configured(args | {"replica": 2})
    with pytest.raises(ConfigError, match=r"args.models: "):
        configured(args | {"models": []})
    monkeypatch.delenv("RLFT_API_KEYS", raising=False)
    with pytest.raises(ConfigError, match=r"there are no API keys: give `keys` in args, or RLFT_API_KEYS"):
        configured({key: value for key, value in args.items() if key != "keys"})
