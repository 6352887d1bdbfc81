"""metrics.jsonl and samples.jsonl through crashes and rewinds, and trackers that are not there."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from rlft_core.errors import DataError, UserError
from rlft_core.types import Completion, Prompt, RolloutGroup, Row, Score, ScoredGroup
from services.observe import jsonl
from services.observe.samples import SampleLog, sample_records
from services.observe.sinks import JsonlSink, MlflowSink, RunInfo, SinkError, TensorBoardSink, WandbSink, make_sinks


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _started(folder: Path) -> JsonlSink:
    sink = JsonlSink()
    sink.start(RunInfo(name="run", folder=folder))
    return sink


def test_one_line_for_each_step_with_stage_step_time_and_metrics(tmp_path: Path) -> None:
    sink = _started(tmp_path)
    sink.log(0, {"reward/mean": 0.5, "kl/mean": 0.01}, "ppo")
    sink.log(1, {"reward/mean": 0.6, "kl/mean": 0.02}, "ppo")
    rows = _lines(tmp_path / "metrics.jsonl")
    assert [(row["stage"], row["step"], row["reward/mean"]) for row in rows] == [("ppo", 0, 0.5), ("ppo", 1, 0.6)]
    assert all(row["time"] > 1.7e9 for row in rows)  # type: ignore[operator]


def test_a_number_that_is_not_finite_is_written_as_null(tmp_path: Path) -> None:
    _started(tmp_path).log(0, {"kl/mean": float("nan"), "policy/loss": float("inf")}, "ppo")
    text = (tmp_path / "metrics.jsonl").read_text()
    assert '"kl/mean": null' in text
    assert '"policy/loss": null' in text


def test_rewind_drops_only_this_stage_from_this_step_on(tmp_path: Path) -> None:
    sink = _started(tmp_path)
    for stage in ("sft", "ppo"):
        for step in range(4):
            sink.log(step, {"x": 1.0}, stage)
    sink.rewind("ppo", 2)
    sink.log(2, {"x": 2.0}, "ppo")
    assert [(row["stage"], row["step"], row["x"]) for row in _lines(tmp_path / "metrics.jsonl")] == [
        *(("sft", step, 1.0) for step in range(4)),
        ("ppo", 0, 1.0),
        ("ppo", 1, 1.0),
        ("ppo", 2, 2.0),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_torn_last_line_is_skipped_by_readers_and_cut_by_a_rewind(tmp_path: Path) -> None:
    sink = _started(tmp_path)
    sink.log(0, {"x": 1.0}, "ppo")
    path = tmp_path / "metrics.jsonl"
    with path.open("ab") as file:
        file.write('{"stage": "ppo", "step": 1, "text": "\u00e4'.encode()[:-1])  # torn inside a character
    assert [row["step"] for row in jsonl.read_rows(path)] == [0]
    sink.rewind("ppo", 1)
    sink.log(1, {"x": 2.0}, "ppo")
    assert [row["step"] for row in _lines(path)] == [0, 1]


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"stage": "ppo", "step": 0}')
    jsonl.rewind(path, stage="ppo", step=1)
    assert path.read_text() == '{"stage": "ppo", "step": 0}\n'


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1,,}\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2"):
        list(jsonl.read_rows(path))


def test_rewind_of_a_file_that_is_not_there_does_nothing(tmp_path: Path) -> None:
    assert jsonl.rewind(tmp_path / "none.jsonl", stage="ppo", step=0) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_sink_error(tmp_path: Path) -> None:
    sink = _started(tmp_path / "not there")
    with pytest.raises(SinkError, match=r"metrics\.jsonl"):
        sink.log(0, {"x": 1.0}, "ppo")


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb", "otel"])
def test_a_tracker_that_is_not_installed_names_the_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("tensorboard.summary", "mlflow", "wandb", "opentelemetry.sdk.trace"):
        monkeypatch.setitem(sys.modules, module, None)
    [sink] = make_sinks([name])
    with pytest.raises(UserError, match=rf"pip install 'rlft\[{name}\]'"):
        sink.start(RunInfo(name="run", folder=tmp_path))
    sink.close()


def test_an_unknown_tracker_names_those_there_are() -> None:
    with pytest.raises(UserError, match="'tensorbord'; choose from mlflow, otel, tensorboard, wandb"):
        make_sinks(["tensorbord"])


def test_tensorboard_writes_event_files_for_each_stage(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard.summary")
    sink = TensorBoardSink()
    sink.start(RunInfo(name="run", folder=tmp_path))
    sink.log(0, {"loss/mean": 2.5, "bad": float("nan")}, "sft")
    sink.log(0, {"reward/mean": 0.5}, "ppo")
    sink.close()
    for stage, tag in (("sft", b"loss/mean"), ("ppo", b"reward/mean")):
        [file] = (tmp_path / "tensorboard" / stage).iterdir()
        assert tag in file.read_bytes()
        assert b"bad" not in file.read_bytes()


class _FakeClient:
    """Stands in for mlflow.MlflowClient; remembers what it was told."""

    told: ClassVar[list[tuple[object, ...]]] = []

    def __init__(self, tracking_uri: str) -> None:
        self.told.append(("open", tracking_uri.split(":")[0]))

    def get_experiment_by_name(self, name: str) -> None:
        self.told.append(("experiment", name))

    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        return f"id of {name}"

    def create_run(self, experiment_id: str, run_name: str) -> object:
        self.told.append(("create", experiment_id, run_name))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))

    def update_run(self, run_id: str, status: str) -> None:
        self.told.append(("update", run_id, status))

    def log_dict(self, run_id: str, dictionary: dict[str, object], artifact_file: str) -> None:
        self.told.append(("config", dictionary))

    def log_batch(self, run_id: str, metrics: list[tuple[object, ...]]) -> None:
        self.told.append(("metrics", [(name, value, step) for name, value, _, step in metrics]))

    def set_terminated(self, run_id: str) -> None:
        self.told.append(("end", run_id))


def test_mlflow_resumes_its_run_and_prefixes_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("mlflow")
    fake.__dict__.update(
        MlflowClient=_FakeClient,
        MlflowException=ValueError,
        entities=types.SimpleNamespace(Metric=lambda *fields: fields),
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(_FakeClient, "told", [])
    for step in range(2):
        sink = MlflowSink()
        sink.start(RunInfo(name="run", folder=tmp_path, project="news", config={"seed": 0}))
        sink.log(step, {"kl/mean": 0.5, "bad": float("inf")}, "ppo")
        sink.close()
    assert _FakeClient.told == [
        ("open", "sqlite"),
        ("experiment", "news"),
        ("create", "id of news", "run"),
        ("config", {"seed": 0}),
        ("metrics", [("ppo/kl/mean", 0.5, 0)]),
        ("end", "abc"),
        ("open", "sqlite"),
        ("update", "abc", "RUNNING"),
        ("metrics", [("ppo/kl/mean", 0.5, 1)]),
        ("end", "abc"),
    ]


def test_wandb_keeps_its_id_and_takes_a_step_of_the_stages_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[object, ...]] = []

    class FakeRun:
        def define_metric(self, name: str, step_metric: str | None = None) -> None:
            told.append(("axis", name, step_metric))

        def log(self, row: dict[str, float]) -> None:
            told.append(("log", row))

        def finish(self) -> None:
            told.append(("finish",))

    def init(**options: object) -> FakeRun:
        told.append(("init", options["id"], options["resume"], options["project"]))
        return FakeRun()

    fake = types.ModuleType("wandb")
    fake.__dict__.update(init=init, Error=ValueError)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        sink = WandbSink()
        sink.start(RunInfo(name="run", folder=tmp_path))
        sink.log(3, {"kl/mean": 0.5}, "ppo")
        sink.close()
    run_id = (tmp_path / "wandb_run_id").read_text().strip()
    assert told == 2 * [
        ("init", run_id, "allow", "rlft"),
        ("axis", "ppo/step", None),
        ("axis", "ppo/*", "ppo/step"),
        ("log", {"ppo/kl/mean": 0.5, "ppo/step": 3}),
        ("finish",),
    ]


def _scored() -> ScoredGroup:
    row = Row(id="row-7", input="What is it?", output="A thing")
    completions = tuple(
        Completion(
            token_ids=np.array([5, 2], dtype=np.int32),
            logprobs=np.zeros(2, dtype=np.float32),
            versions=np.zeros(2, dtype=np.int32),
            finish_reason="stop",
            text=text,
        )
        for text in ("one", "two")
    )
    scores = tuple(
        Score(per_token=np.array([0.0, value], dtype=np.float32), breakdown={"rules": value}) for value in (0.25, 0.75)
    )
    group = RolloutGroup(prompt=Prompt(row=row, token_ids=(1,), num_samples=2, seed=0), completions=completions)
    return ScoredGroup(group=group, scores=scores)


def test_samples_of_due_steps_are_written_and_rewound(tmp_path: Path) -> None:
    log = SampleLog(tmp_path, every=2)
    for step in range(4):
        log.write("ppo", step, sample_records(_scored(), limit=1))
    assert _lines(tmp_path / "samples.jsonl")[0] == {
        "stage": "ppo",
        "step": 0,
        "id": "row-7",
        "prompt": "What is it?",
        "output": "one",
        "reference": "A thing",
        "reward": 0.25,
        "breakdown": {"rules": 0.25},
        "finish_reason": "stop",
        "skipped": None,
    }
    assert [row["step"] for row in _lines(tmp_path / "samples.jsonl")] == [0, 2]
    log.rewind("ppo", 1)
    assert [row["step"] for row in _lines(tmp_path / "samples.jsonl")] == [0]


def test_all_completions_without_a_limit_and_none_when_never_due(tmp_path: Path) -> None:
    assert [record.output for record in sample_records(_scored())] == ["one", "two"]
    log = SampleLog(tmp_path, every=0)
    log.write("ppo", 0, sample_records(_scored()))
    assert not (tmp_path / "samples.jsonl").exists()
