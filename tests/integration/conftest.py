"""One Ray cluster, one tiny model and a few undisturbed runs for all integration tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]  # for `tests...` under a plain `pytest`

from rlft_core.config.recipe import ClusterConfig  # noqa: E402
from rlft_core.models.tiny import make_tiny_model  # noqa: E402
from services.cluster.session import Needs, session  # noqa: E402
from tests.integration.support import Here, here, ppo, recipe_content, recipe_of, run_ppo_here, write_rows  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A run that is killed and started again takes minutes on a busy machine; that alone is no failure."""
    for item in items:
        if "integration" in item.keywords:
            item.add_marker(pytest.mark.timeout(1200))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama in float32 with heads that vLLM takes on CPU. Read only."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A local Ray cluster in this process, for all tests that need no cluster of their own."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with session(ClusterConfig(num_cpus=32, object_store_mb=256), Needs(), model_bytes=0):
        yield


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with rows.jsonl, in which a run may be started."""
    write_rows(tmp_path)
    return tmp_path


def _undisturbed(folder: Path, model: Path, *, engine: str, dtype: str) -> Here:
    write_rows(folder)
    run = here(folder, recipe_of(recipe_content(model, ppo(engine=engine), dtype=dtype)))
    run_ppo_here(run)
    return run


@pytest.fixture(scope="session")
def undisturbed_float32(cluster: None, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Here:
    """Five PPO steps with a vLLM engine in float32, to compare with. Read only."""
    return _undisturbed(tmp_path_factory.mktemp("float32"), tiny_model, engine="vllm", dtype="float32")


@pytest.fixture(scope="session")
def undisturbed_bfloat16(cluster: None, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Here:
    """The same in bfloat16."""
    return _undisturbed(tmp_path_factory.mktemp("bfloat16"), tiny_model, engine="vllm", dtype="bfloat16")


@pytest.fixture(scope="session")
def undisturbed_scripted(cluster: None, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Here:
    """The same with the scripted engine: its samples do not depend on the weights."""
    return _undisturbed(tmp_path_factory.mktemp("scripted"), tiny_model, engine="fake", dtype="float32")
