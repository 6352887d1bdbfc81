"""Which checkpoint a name stands for: promote, rollback, canaries, and the file that survives a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlft_core.checkpoints.folder import write_manifest
from rlft_core.errors import CheckpointError, ConfigError
from rlft_core.serving.state import Served, read_state, resumed, write_state
from rlft_core.serving.types import Checkpoint


def checkpoint(label: str, folder: Path = Path("nowhere")) -> Checkpoint:
    return Checkpoint(label, str(folder), "policy", 256, "bfloat16", system="Be short.")


A, B, C = checkpoint("a"), checkpoint("b"), checkpoint("c")


def test_a_promote_is_undone_step_by_step() -> None:
    served = Served("m", "a", A).promoted(B).promoted(C)
    assert (served.current, served.history) == (C, (A, B))
    assert served.rolled_back().current == B
    assert served.rolled_back().rolled_back() == Served("m", "a", A)
    with pytest.raises(ConfigError, match=r"model 'm' has stood for a from the start: nothing to undo"):
        Served("m", "a", A).rolled_back()


def test_promoting_the_same_again_adds_nothing_to_undo() -> None:
    assert Served("m", "a", A).promoted(B).promoted(B).history == (A,)


def test_a_canary_is_ended_by_a_rollback_or_by_a_promote() -> None:
    trying = Served("m", "a", A).promoted(B).with_canary(C, 10.0)
    assert (trying.current, trying.canary, trying.percent) == (B, C, 10.0)
    assert trying.rolled_back() == Served("m", "a", A).promoted(B)
    done = trying.promoted(C)
    assert (done.current, done.canary, done.percent, done.history) == (C, None, 0.0, (A, B))


def test_a_long_history_is_cut() -> None:
    served = Served("m", "a", A)
    for number in range(50):
        served = served.promoted(checkpoint(str(number)))
    assert [one.label for one in served.history] == [str(number) for number in range(29, 49)]


def test_the_file_holds_all_of_it(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "state.json"
    models = {"m": Served("m", "a", A).promoted(B).with_canary(C, 12.5), "n": Served("n", "b", B)}
    assert read_state(file) == {}
    write_state(file, models)
    assert read_state(file) == models
    assert [path.name for path in file.parent.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"format": 2, "models": []}', '{"format": 1, "models": [1]}']
)
def test_a_file_that_is_none_is_told(content: str, tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    file.write_text(content)
    with pytest.raises(CheckpointError, match=r"state.json: not a state file of serving .*remove it"):
        read_state(file)


def complete(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    write_manifest(folder)
    return folder


def test_after_a_restart_a_name_stands_for_what_was_promoted(tmp_path: Path) -> None:
    new = checkpoint("new", complete(tmp_path / "new"))
    fresh = Served("m", "a", A)
    before = fresh.promoted(new).with_canary(new, 5.0)
    kept, told = resumed(fresh, before)
    assert kept == before
    assert told == "model 'm' stands for new, which was promoted; rlft rollback undoes it"
    assert resumed(fresh, None) == (fresh, None)
    unchanged = Served("m", "a", new)
    assert resumed(unchanged, unchanged) == (unchanged, None)


def test_the_command_line_wins_when_it_names_something_else(tmp_path: Path) -> None:
    new = checkpoint("new", complete(tmp_path / "new"))
    other = Served("m", "b", B)
    assert resumed(other, Served("m", "a", A).promoted(new)) == (other, None)


def test_what_is_gone_since_is_not_served(tmp_path: Path) -> None:
    fresh = Served("m", "a", A)
    kept, told = resumed(fresh, fresh.promoted(checkpoint("new", tmp_path / "gone")))
    assert kept == fresh
    assert told == "new, promoted before, is not complete any more: a is served"
    new = checkpoint("new", complete(tmp_path / "new"))
    kept, _ = resumed(fresh, fresh.promoted(new).with_canary(C, 5.0))
    assert (kept.current, kept.canary, kept.percent) == (new, None, 0.0)
