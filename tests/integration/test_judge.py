"""Judges on engines: the log-probs they are asked for, a judge that is killed, and PPO against the policy's own start."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from rlft_core.errors import EngineError, RlftError
from rlft_core.judging.protocol import Answer, Comparison
from rlft_core.judging.questions import Questioner, Tokens
from rlft_core.judging.template import parse_template
from rlft_core.models.loading import load_lm, load_tokenizer
from rlft_core.rewards.given import GivenScores
from rlft_core.types import Completion, Prompt, RolloutGroup, Row
from services.rollout.actor import RolloutActor
from services.rollout.create import engine_settings
from services.rollout.engine import EngineSettings
from services.rollout.fleet import Fleet
from services.rollout.judging import JudgePool, Judging
from services.rollout.member import FleetLimits
from tests.integration.support import (
    finish_run,
    here,
    kill,
    metrics_of,
    ppo,
    recipe_content,
    recipe_of,
    rows,
    run_ppo_here,
    write_rows,
)
from tests.unit.judging.test_api_judge import Service, longer, said

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("cluster")]

TEMPLATE = parse_template(
    "short",
    {
        "user": "Task: {context}\nFirst: {response_a}\nSecond: {response_b}\n{principle_text} Which is better, A or B?",
        "labels": ["A", "B"],
        "principles": {"true": "Be true.", "short": "Be short."},
    },
)


def judging(model: Path, **changes: Any) -> Judging:
    keys: dict[str, Any] = {
        "principles": None,
        "against": "group",
        "all_pairs": 4,
        "rounds": 3,
        "max_length": 160,
        "plain": False,
        "trust_remote_code": False,
    }
    return Judging("judge", str(model), TEMPLATE, **(keys | changes))


def group(number: int, *texts: str) -> RolloutGroup:
    completions = tuple(
        Completion(np.zeros(1, np.int32), np.zeros(1, np.float32), np.zeros(1, np.int32), "stop", text)
        for text in texts
    )
    return RolloutGroup(Prompt(Row(f"row-{number}", f"task {number}", "out"), (1, 2), len(texts), number), completions)


def fleet_of(settings: EngineSettings, kind: str, size: int, told: list[str], **options: Any) -> Fleet:
    actor = ray.remote(RolloutActor)

    def create(name: str, life: int) -> ray.actor.ActorHandle:
        placed = actor.options(num_cpus=0.1, max_concurrency=100)
        return placed.remote(name, kind, settings, {key: value(name, life) for key, value in options.items()})

    limits = FleetLimits(start_s=120.0, request_s=60.0, sync_s=60.0, max_restarts=2, probe_tolerance=0.1)
    return Fleet([f"judge-{k}" for k in range(size)], create, limits=limits, notice=told.append, frozen=True)


def run(fleet: Fleet, test: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    async def whole() -> Any:
        try:
            await asyncio.wait_for(fleet.start(), 120.0)
            return await asyncio.wait_for(test(), 60.0)
        finally:
            await fleet.stop()

    return asyncio.run(whole())


FAKE = EngineSettings("", "float32", 160, 8, 32, 0, 0.0, 1, True, False, False)
GROUPS = [group(k, *(f"answer {k} {j}" for j in range(3 + k % 5))) for k in range(8)]


def values(fleet: Fleet, asked: Judging, before: Callable[[], Any] = lambda: None) -> list[list[float]]:
    pool = JudgePool(asked, fleet, shared=True)

    async def test() -> list[GivenScores]:
        refs = [asyncio.ensure_future(pool.score(ray.put(one))) for one in GROUPS]
        await asyncio.sleep(0)
        if (work := before()) is not None:
            await work
        found: list[GivenScores] = ray.get([ref for ref, _ in await asyncio.gather(*refs)])
        return found

    scores = run(fleet, test)
    assert [len(found.values) for found in scores] == [len(one.completions) for one in GROUPS]
    return [[value[0] for value in found.values] for found in scores]


def test_a_judge_that_is_killed_gives_its_groups_to_another(tiny_model: Path) -> None:
    asked = judging(tiny_model)
    undisturbed = values(fleet_of(FAKE, "fake", 1, []), asked)
    assert all(sum(scores) == pytest.approx(len(scores) / 2, abs=1e-9) for scores in undisturbed)
    assert len({score for scores in undisturbed for score in scores}) > 3
    told: list[str] = []
    fleet = fleet_of(FAKE, "fake", 2, told, step_s=lambda name, life: 0.2)

    async def strike() -> None:
        first = next(info for info in await fleet.info() if info["name"] == "judge-0")
        await asyncio.sleep(0.4)  # in the middle of its first questions
        kill(first["pid"])

    assert values(fleet, asked, strike) == undisturbed
    assert told[0].startswith("engine judge-0 died in 'judge'")
    assert fleet.num_restarts == 1


def test_a_judge_that_always_dies_fails_by_its_name(tiny_model: Path) -> None:
    fleet = fleet_of(FAKE, "fake", 1, [], fail_after=lambda name, life: 5)
    with pytest.raises(EngineError, match=r"no engine is left \(judge-0\)"):
        values(fleet, judging(tiny_model))


def test_an_engine_says_what_the_model_says(tiny_model: Path) -> None:
    recipe = recipe_of(recipe_content(tiny_model, ppo()))
    settings = engine_settings(recipe, recipe.stages[0].rollout, str(tiny_model), on_gpu=False, lora=False)  # type: ignore[union-attr]
    asked = judging(tiny_model, principles=("short",), against="reference")
    fleet = fleet_of(settings, "vllm", 1, [])
    one = group(1, "a small tool", "out", "files and more files")

    async def test() -> GivenScores:
        found: GivenScores = ray.get(await fleet.judge(ray.put(one), asked))
        return found

    found = run(fleet, test)
    tokenizer = load_tokenizer(tiny_model)
    questioner = Questioner.of(TEMPLATE, Tokens(tokenizer), principles=("short",), max_length=159)
    lm: Any = load_lm(tiny_model, attention="dense")
    comparisons = [Comparison(one.prompt.row, Answer(c.text), Answer("out")) for c in one.completions]
    chances = []
    for prompt in questioner.prompts(comparisons):
        with torch.no_grad():
            whole = torch.softmax(lm(torch.tensor([prompt])).logits[0, -1].double(), dim=0)
        chances.append((float(whole[questioner.labels[0]]), float(whole[questioner.labels[1]])))
    verdicts = questioner.verdicts(comparisons, chances)
    assert [value[0] for value in found.values] == [verdict.preferred for verdict in verdicts]
    assert found.values[1] == (0.5, {"truncated": 0.0})  # equal answers: a tie without a call
    for value, verdict in ((found.values[0], verdicts[0]), (found.values[2], verdicts[2])):
        assert value[1]["first"] == pytest.approx(verdict.first, abs=1e-4)
        assert value[1]["entropy"] == pytest.approx(verdict.entropy, abs=1e-4)


@pytest.mark.parametrize(("lora", "who"), [(None, "start"), ({"rank": 4}, "start"), (None, "policy")])
def test_ppo_against_the_policys_own_start_or_itself(
    tmp_path: Path, tiny_model: Path, lora: dict[str, Any] | None, who: str
) -> None:
    write_rows(tmp_path)
    rollout = ppo()["rollout"]
    judge = {"type": "judge", "model": who, "template": "judge.yaml", "rollout": rollout}
    content = recipe_content(tiny_model, ppo(num_steps=2, rewards=[judge]), dtype="float32")
    content["model"] |= {"max_length": 320, "lora": lora}
    content["stages"][0]["learner"]["max_row_tokens"] = 512
    (tmp_path / "judge.yaml").write_text(
        json.dumps({"user": TEMPLATE.user, "labels": list(TEMPLATE.labels), "principles": dict(TEMPLATE.principles)})
    )
    run = here(tmp_path, recipe_of(content))
    run_ppo_here(run)
    folder = run.folder
    steps = metrics_of(folder, "ppo")
    assert len(steps) == 2
    for step in steps:
        assert step["reward/judge"] == pytest.approx(0.5, abs=1e-4)  # what one sample wins another one loses
        assert 0.0 <= step["reward/judge/agreement"] <= 1.0
        assert 0.0 < step["reward/judge/first"] < 1.0
    by_row: dict[tuple[int, str], float] = {}
    for sample in rows(folder / "samples.jsonl"):
        place = (sample["step"], sample["id"])
        by_row[place] = by_row.get(place, 0.0) + sample["breakdown"]["judge"]
    assert list(by_row.values()) == pytest.approx([2.0] * 8, abs=1e-4)


def test_ppo_against_a_service_whose_replies_are_bought_once(tmp_path: Path, tiny_model: Path) -> None:
    service = Service()
    thread = threading.Thread(target=service.server.serve_forever, daemon=True)
    thread.start()
    try:
        write_rows(tmp_path)
        (tmp_path / "judge.yaml").write_text(
            json.dumps({"user": "{context}@{response_a}@{response_b}@", "labels": ["A", "B"]})
        )
        judge = {"type": "api_judge", "name": "oracle", "url": service.url, "model": "m", "template": "judge.yaml"}
        judge["cache"] = "replies.sqlite"
        content = recipe_content(tiny_model, ppo(num_steps=2, rewards=[judge]), dtype="float32")
        (tmp_path / "recipe.yaml").write_text(json.dumps(content))
        finish_run(tmp_path)
        bought, steps = len(service.bodies), metrics_of(tmp_path / "runs" / "run", "ppo")
        assert bought == 1 + sum(step["reward/oracle/asked"] * 16 for step in steps)  # one asks whether it is there
        assert all(step["reward/oracle"] == pytest.approx(0.5, abs=1e-6) for step in steps)
        run_ppo_here(here(tmp_path, recipe_of(content, "name=again")))  # all is done again, but for what was bought
        assert len(service.bodies) == bought + 1
        # One that babbles fails the run by its name, and no sample gets a 0 for it.
        service.answer = lambda body: said("no idea") if "@" in body["messages"][-1]["content"] else longer(body)
        (tmp_path / "replies.sqlite").unlink()
        with pytest.raises(RlftError, match=r"judge 'oracle' \(m at .*said 'no idea'"):
            run_ppo_here(here(tmp_path, recipe_of(content, "name=babble")))
    finally:
        service.server.shutdown()
        service.server.server_close()
        thread.join(10)
