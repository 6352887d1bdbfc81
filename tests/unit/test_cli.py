"""The command line: its surface, what it prints, its exit codes, and that it answers at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from rich.console import Console
from typer.testing import CliRunner

from rlft_core.config import Recipe
from rlft_core.config.load import parse_recipe
from rlft_core.errors import ConfigError, EngineError
from rlft_core.plan import Actor, Available, Plan, PromptLengths, StagePlan
from services.cli.main import app, logs_named, prepared_recipe, told, with_ray_address
from services.cli.show_plan import show_plan

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "ray", "vllm", "transformers")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with data and a recipe of fake engines; the search path is put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    rows = [json.dumps({"input": f"text {k}", "output": f"answer {k}"}) for k in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "my.yaml").write_text(
        "name: mine\nmodel: {name: some/model}\ndata: {train: rows.jsonl, test: 5}\n"
        "stages:\n  - {type: ppo, rewards: [{type: custom, function: 'my_own_rewards:good'}]}\n"
        "  - {type: evaluate, systems: {rl: ppo}}\n"
    )
    (tmp_path / "my_own_rewards.py").write_text("def good(sample):\n    return 1.0\n")
    return tmp_path


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


# Surface

SURFACE = {
    "jobs": "--address --debug",
    "logs": "--address --debug --follow -f run",
    "resume": "--address --debug --follow run",
    "scale": "--address --answer --judge --no-wait --reward --rollouts --runs-dir --scorers --wait run",
    "status": "--address --answer --json --runs-dir run",
    "stop": "--address --answer --now --runs-dir run",
    "submit": "--address --cpus --debug --env --follow --memory-gb --name --runs-dir --set recipe",
    "init": "--debug --force --input --instruction --model --name --out --output data_file",
    "run": "--as-job --debug --fresh --name --require-env --runs-dir --set recipe",
    "check": "--debug --no-tokenizer --runs-dir --set --tokenizer recipe",
    "doctor": "--json",
    "negatives": "--debug --runs-dir --set --show --stage recipe",
    "report": "--debug --runs-dir run",
    "compare": "--debug --judge --out --reference --runs-dir --stage --template runs",
    "generate": (
        "--best-of --by --debug --input --max-tokens --out --rows --runs-dir --seed --temperature --template run"
    ),
    "key": "--admin --debug name",
    "promote": "--debug --model --percent --url checkpoint",
    "rollback": "--debug --model --url",
    "serve": (
        "--debug --host --idle --keys --kv-cache-mb --max-at-once --max-length --max-replicas --max-tokens --merge "
        "--name --port --postprocess --replicas --requests-per-minute --runs-dir --scale-to-zero --state "
        "--tensor-parallel --tokens-per-minute models"
    ),
    "show tokens": "--debug --limit --runs-dir --stage run",
    "ui": "--debug --host --keys --port --runs-dir",
    "version": "",
}
"""Every command and what it takes; an option with several names by each of them."""


def test_commands_and_options_are_these() -> None:
    commands = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    commands |= {f"show {name}": command for name, command in commands.pop("show").commands.items()}
    found = {
        name: sorted(text for parameter in command.params for text in (*parameter.opts, *parameter.secondary_opts))
        for name, command in commands.items()
    }
    assert found == {name: options.split() for name, options in SURFACE.items()}


def test_every_command_and_option_is_explained() -> None:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        assert command.help, name
        for parameter in command.params:
            assert parameter.help, f"{name} {parameter.name}"  # type: ignore[attr-defined]


def test_version_is_printed() -> None:
    result = call("version")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1


# Speed


def modules_after(code: str, cwd: Path) -> list[str]:
    script = f"import sys\n{code}\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=cwd)
    return json.loads(done.stdout.splitlines()[-1].replace("'", '"'))


def test_help_waits_for_no_heavy_import() -> None:
    assert modules_after("import services.cli.main", ROOT) == []
    # Config too is left to the commands: pydantic would take most of the time.
    code = "import services.cli.main\nassert 'pydantic' not in sys.modules and 'yaml' not in sys.modules"
    assert modules_after(code, ROOT) == []


def test_check_waits_for_no_heavy_import_before_the_tokenizer(here: Path) -> None:
    code = (
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from typer.testing import CliRunner\nfrom services.cli.main import app\n"
        "result = CliRunner().invoke(app, ['check', 'my.yaml', '--no-tokenizer'])\n"
        "assert result.exit_code == 0, result.output"
    )
    assert modules_after(code, here) == []


def test_help_answers_in_well_under_a_second_of_computing() -> None:
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'services.cli.main', '--help'], check=True, capture_output=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\nprint(used.ru_utime + used.ru_stime)"
    )
    # Seconds of CPU, not of the clock: another program on this machine must not fail the test.
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout)
        for _ in range(2)
    ]
    assert min(seconds) < 1.0


# Errors


def test_a_users_mistake_is_told_without_a_traceback(here: Path) -> None:
    result = call("check", "my.yaml", "--set", "stages.ppo.num_step=3", "--no-tokenizer")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: my.yaml has a problem:")
    assert "did you mean 'num_steps'?" in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_debug_shows_the_traceback(here: Path) -> None:
    result = call("check", "none.yaml", "--debug")
    assert isinstance(result.exception, ConfigError)


def test_a_recipe_that_is_not_there_names_the_nearest(here: Path) -> None:
    result = call("run", "mine.yaml")
    assert result.exit_code == 2
    assert "recipe mine.yaml does not exist" in result.stderr
    assert "my.yaml" in result.stderr


@pytest.mark.parametrize(
    "error, code, said",
    [
        (ConfigError("wrong key"), 2, "Error: wrong key"),
        (EngineError("engine-0 died"), 1, "Error: engine-0 died"),
        (KeyboardInterrupt(), 130, "Interrupted"),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(typer.Exit) as caught, told(debug=False), logs_named(tmp_path / "runs" / "mine"):
        raise error
    written = capsys.readouterr()
    assert caught.value.exit_code == code
    assert said in written.err
    assert written.out == ""
    assert ("Logs of its processes" in written.err) == (code == 1)
    assert (str(tmp_path / "runs" / "mine") in written.err) == (code == 1)


def test_what_rlft_did_not_foresee_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), told(debug=False):
        raise ZeroDivisionError


# Recipes as the command line reads them


def test_check_shows_the_plan_and_finds_rewards_in_the_current_folder(here: Path) -> None:
    result = call("check", "my.yaml", "--no-tokenizer")
    assert result.exit_code == 0, result.output
    assert "some/model" in result.stdout
    assert "15 train, 0 validation, 5 test" in result.stdout
    assert "1 x learner rank" in result.stdout
    assert result.stdout.rstrip().endswith("Ready to run.")
    assert not (here / "runs").exists()


def test_paths_in_a_recipe_are_relative_to_the_current_folder(here: Path) -> None:
    (here / "deeper").mkdir()
    (here / "my.yaml").rename(here / "deeper" / "my.yaml")
    assert call("check", "deeper/my.yaml", "--no-tokenizer").exit_code == 0


def test_run_hands_the_recipe_to_the_pipeline(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Recipe, dict[str, Any]]] = []
    fake = type(sys)("services.pipeline.run")
    vars(fake)["run_recipe"] = lambda recipe, **given: seen.append((recipe, given))
    monkeypatch.setitem(sys.modules, "services.pipeline.run", fake)
    result = call("run", "my.yaml", "--set", "stages.ppo.num_steps=4", "--name", "2024", "--runs-dir", "out", "--fresh")
    assert result.exit_code == 0, result.output
    recipe, given = seen[0]
    assert (recipe.name, recipe.stages[0].model_dump()["num_steps"]) == ("2024", 4)
    assert given == {"runs_dir": Path("out"), "base_dir": here, "fresh": True}


def test_the_clusters_address_comes_from_the_environment_unless_the_recipe_gives_it(here: Path) -> None:
    environ = {"RAY_ADDRESS": "10.0.0.1:6379"}
    content: dict[str, Any] = {"data": {"train": "a"}, "stages": [{"type": "sft"}]}
    plain, given = parse_recipe(content), parse_recipe(content, ["cluster.address=local"])
    other = parse_recipe(content, ["cluster.num_cpus=4"])
    assert with_ray_address(plain, environ).cluster.address == "10.0.0.1:6379"
    assert with_ray_address(other, environ).cluster.model_dump(exclude_defaults=True) == {
        "address": "10.0.0.1:6379",
        "num_cpus": 4,
    }
    assert with_ray_address(given, environ).cluster.address == "local"
    assert with_ray_address(plain, {}) == with_ray_address(plain, {"RAY_ADDRESS": " "}) == plain


def test_a_name_that_is_no_folder_name_is_refused(here: Path) -> None:
    with pytest.raises(ConfigError, match="it becomes a folder"):
        prepared_recipe(Path("my.yaml"), [], Path("runs"), name="a/b")


# Other commands


def test_doctor_for_programs() -> None:
    result = call("doctor", "--json")
    answer = json.loads(result.stdout)
    assert result.exit_code == (0 if answer["ok"] else 1)
    assert {"Python", "torch", "memory"} <= {check["name"] for check in answer["checks"]}


def test_report_takes_a_folder_or_a_name_and_refuses_what_is_neither(here: Path) -> None:
    (here / "runs" / "mine").mkdir(parents=True)
    for argument in ("mine", "runs/mine"):
        result = call("report", argument)
        assert result.exit_code == 0, result.output
        assert result.stdout.strip().endswith("report.html")
    assert (here / "runs" / "mine" / "report.html").is_file()
    result = call("report", "nothing")
    assert result.exit_code == 2
    assert "no run folder runs/nothing" in result.stderr


# The plan on paper


def a_plan() -> Plan:
    learner = Actor("learner rank", 4, 1, 1, 8 << 30)
    engine = Actor("engine", 2, 0.5, 0, 3 << 30)
    stages = (
        StagePlan("sft", "sft", ("base",), 60, 1150, 480, 60, (Actor("learner rank", 1, 1, 0, None),), None),
        StagePlan("ppo", "ppo", ("sft",), 50, 1150, 3200, 100, (learner, engine), 5 << 30),
    )
    return Plan(
        name="mine",
        model="org/name",
        num_parameters=134_515_008,
        dtype="bfloat16",
        num_rows={"train": 1150, "test": 300},
        prompt_tokens={"train": PromptLengths(91.2, 147, 3)},
        stages=stages,
        available=Available(2, 8, 16 << 30, 100 << 30),
        notes=("a note",),
        warnings=("a warning",),
    )


def test_a_plan_in_a_log_file_reads_as_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=120, highlight=False, no_color=True, force_terminal=False)
    with console.capture() as captured:
        show_plan(a_plan(), console)
    lines = [" ".join(line.split()) for line in captured.get().splitlines()]
    assert "Model org/name, 135 M parameters, bfloat16" in lines
    assert "Rows 1,150 train (prompts of 91 tokens, longest 147, 3 too long and left out), 300 test" in lines
    assert "sft sft the base model 60 1,150 480 60" in lines
    assert "ppo ppo sft 50 1,150 3,200 100" in lines
    assert "sft 1 x learner rank 1 0 not known" in lines
    assert "ppo 4 x learner rank 1 1 8.0 GiB (GPU)" in lines
    assert "2 x engine 0.5 0 3.0 GiB" in lines
    assert "together 5 4 6.0 GiB" in lines
    assert "This machine: 2 CPUs, 8 GPUs, 16.0 GiB of memory and 100.0 GiB of disk free." in lines
    assert lines[-2:] == ["note: a note", "warning: a warning"]
    assert "\x1b" not in captured.get()
