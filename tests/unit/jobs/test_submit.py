"""How a job is started, where its runs go, which variables it may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlft_core.config.load import parse_recipe
from rlft_core.errors import ConfigError
from services.jobs.client import check_versions
from services.jobs.submit import Request, checked_runs_dir, keep_source, parse_variables, run_command, runs_dir_of_job


def test_the_command_is_quoted_for_a_shell() -> None:
    recipe = parse_recipe(
        {"name": "a-run", "data": {"train": "r.jsonl"}, "stages": [{"type": "sft"}]}, (), source="test"
    )
    request = Request(Path("r.yaml"), recipe, ["stages.sft.name=x; rm -rf /"], "/shared/my runs", ["HF_TOKEN"])
    assert run_command(request) == (
        "rlft run recipe.yaml --name a-run --as-job --runs-dir '/shared/my runs' --set 'stages.sft.name=x; rm -rf /' "
        "--require-env HF_TOKEN"
    )


def test_secrets_go_by_name_only() -> None:
    assert parse_variables(["HF_TOKEN", "STEPS=3", "EMPTY="]) == (["HF_TOKEN"], {"STEPS": "3", "EMPTY": ""})
    with pytest.raises(ConfigError, match=r"--env WANDB_API_KEY=\.\.\.: whoever sees") as refused:
        parse_variables(["WANDB_API_KEY=hush"])
    assert "hush" not in str(refused.value)
    with pytest.raises(ConfigError, match=r"--env A B: a variable's name"):
        parse_variables(["A B=c"])


def test_where_runs_go() -> None:
    assert checked_runs_dir(None) == ""  # the nodes say
    assert checked_runs_dir("/shared/runs") == "/shared/runs"
    with pytest.raises(ConfigError, match=r"--runs-dir runs: an absolute path"):
        checked_runs_dir("runs")
    assert runs_dir_of_job(Path("/shared/runs")) == Path("/shared/runs")
    with pytest.raises(ConfigError, match=r"nodes do not say where runs go: set RLFT_RUNS_DIR there"):
        runs_dir_of_job(Path("runs"))


def test_versions_of_ray_must_be_of_one_release() -> None:
    check_versions("2.60.1", "2.60.0", "http://head:8265")
    for there in ("2.59.0", None):
        with pytest.raises(ConfigError, match=rf"runs Ray {there}, and here is Ray 2\.60\.0"):
            check_versions(there, "2.60.0", "http://head:8265")


def test_what_a_job_was_given_stays_with_the_run(tmp_path: Path) -> None:
    given, run = tmp_path / "given", tmp_path / "runs" / "a-run"
    (given / "rewards").mkdir(parents=True)
    (given / "rewards" / "mine.py").write_text("x = 1\n")
    keep_source(given, run)
    (given / "rewards" / "mine.py").write_text("x = 2\n")
    keep_source(given, run)
    assert (run / "source" / "rewards" / "mine.py").read_text() == "x = 2\n"
    keep_source(run / "source", run)  # a resumed job starts there
    assert (run / "source" / "rewards" / "mine.py").read_text() == "x = 2\n"
    assert [path.name for path in run.iterdir()] == ["source"]
