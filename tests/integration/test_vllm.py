"""Real vLLM engines against the learner's own policy: seeds, log-probs, weights that come whole, late, wrong or not."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import RayTaskError

from rlft_core.batching.packing import number_tokens
from rlft_core.config.model import FreezeConfig
from rlft_core.data import encode_prompt
from rlft_core.errors import SyncError
from rlft_core.models.compute import Compute
from rlft_core.models.loading import load_tokenizer, trainable_policy
from rlft_core.models.policy import Policy
from rlft_core.types import Prompt, RolloutGroup, Row
from rlft_core.updates.collective import Alone
from rlft_core.updates.passes import collect
from services.learner.publisher import Publisher
from services.rollout.create import create_fleet
from services.rollout.engine import Sampling
from services.rollout.fleet import Fleet
from services.rollout.member import FleetLimits
from services.weights.publication import Publication
from tests.integration.support import ppo, recipe_content, recipe_of

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("cluster")]

AGREE = 1e-4  # nats; float32 kernels of torch and vLLM differ by some 1e-6
TEMPERATURE = 0.8
SHORT, LONG = Sampling(TEMPERATURE, 12), Sampling(TEMPERATURE, 96)

T = TypeVar("T")


@dataclass
class Bench:
    """Engines, and a policy in this process that publishes to them."""

    fleet: Fleet
    policy: Policy
    publisher: Publisher
    compute: Compute
    prompts: list[Prompt]
    loop: asyncio.AbstractEventLoop
    versions: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60.0))

    def publish(self) -> Publication:
        found, _ = self.publisher.publish(next(self.versions))
        assert found is not None
        return found

    def move(self, seed: int) -> None:
        """Change the trained weights by much more than any tolerance."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for parameter in self.policy.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn_like(parameter))

    async def sample(self, sampling: Sampling, fleet: Fleet | None = None) -> list[RolloutGroup]:
        refs = await asyncio.gather(*(fleet or self.fleet).generate(self.prompts, sampling))
        found: list[RolloutGroup] = ray.get(list(refs))
        return found

    def logprobs(self, groups: Sequence[RolloutGroup]) -> list[np.ndarray]:
        """The policy's log-probs of every completion."""
        sequences = number_tokens([(g.prompt.token_ids, [c.token_ids.tolist() for c in g.completions]) for g in groups])
        lengths = [c.num_tokens for g in groups for c in g.completions]
        (flat,) = collect(
            lambda rows: (self.policy(rows, temperature=TEMPERATURE).logprobs,),
            sequences,
            sum(lengths),
            self.compute,
            Alone(),
        )
        return [part.numpy() for part in flat.split(lengths)]


def bench_of(model: Path, *overrides: str) -> Bench:
    recipe = recipe_of(recipe_content(model, ppo()), *overrides)
    stage = recipe.stages[0]
    policy = trainable_policy(
        model, attention="dense", freeze=FreezeConfig(), lora=recipe.model.lora, gradient_checkpointing=False, seed=1
    )
    compute = Compute(torch.device("cpu"), torch.float32, "dense", True, 512)
    tokenizer = load_tokenizer(model)
    asked = [Row(str(k), "reads " + "many " * k + "files", "a tool") for k in range(5)]
    ids = [encode_prompt(tokenizer, row, system=None, template="{input}", chat=True) for row in asked]
    prompts = [Prompt(row, tuple(i), 3, 500 + 10 * k) for k, (row, i) in enumerate(zip(asked, ids, strict=True))]
    probe = (ids[2], tokenizer.encode("a small tool that reads files"))
    publisher = Publisher(policy, compute, Alone(), dtype=torch.float32, probe_pair=probe)
    loop = asyncio.new_event_loop()
    fleet = create_fleet(
        recipe, stage.rollout, model, on_gpu=False, notice=lambda text: None, lora=recipe.model.lora is not None
    )
    bench = Bench(fleet, policy, publisher, compute, prompts, loop)
    loop.run_until_complete(fleet.start())
    return bench


def closed(bench: Bench) -> None:
    bench.do(bench.fleet.stop())
    bench.loop.close()


@pytest.fixture(scope="module")
def whole(cluster: None, tiny_model: Path) -> Iterator[Bench]:
    """Two engines that take all weights; tight tolerance of the probe."""
    bench = bench_of(tiny_model, "stages.ppo.rollout.num_engines=2", f"stages.ppo.rollout.probe_tolerance={AGREE}")
    yield bench
    closed(bench)


@pytest.fixture(scope="module")
def adapted(cluster: None, tiny_model: Path) -> Iterator[Bench]:
    """One engine that takes LoRA adapters."""
    bench = bench_of(tiny_model, "model.lora.rank=4", f"stages.ppo.rollout.probe_tolerance={AGREE}")
    yield bench
    closed(bench)


def only(bench: Bench, name: str) -> Fleet:
    """A fleet of one of the engines, which it did not start and must not stop."""
    handle = next(member.handle for member in bench.fleet._members if member.name == name)
    limits = FleetLimits(60.0, 60.0, 60.0, 0, AGREE)
    return Fleet([name], lambda name, life: handle, limits=limits, notice=lambda text: None)


def tokens(groups: Sequence[RolloutGroup]) -> list[list[list[int]]]:
    return [[c.token_ids.tolist() for c in group.completions] for group in groups]


def largest(bench: Bench, groups: Sequence[RolloutGroup]) -> float:
    """The largest difference between the engine's and the policy's log-prob of a token."""
    mine = bench.logprobs(groups)
    theirs = [c.logprobs for g in groups for c in g.completions]
    return max(float(np.abs(a - b).max()) for a, b in zip(mine, theirs, strict=True))


def test_engines_take_the_weights_and_sample_from_the_learners_policy(whole: Bench) -> None:
    whole.move(seed=1)
    publication = whole.publish()
    reports = whole.do(whole.fleet.load(publication))
    assert [report.version for report in reports] == [publication.version] * 2
    assert all(report.probe_max < AGREE for report in reports)
    groups = whole.do(whole.sample(SHORT))
    assert {group.engine for group in groups} == {"engine-0", "engine-1"}
    assert largest(whole, groups) < AGREE
    assert {int(v) for g in groups for c in g.completions for v in c.versions} == {publication.version}


def test_one_engine_and_two_are_asked_the_same(whole: Bench) -> None:
    async def both() -> tuple[list[RolloutGroup], list[RolloutGroup]]:
        publication = whole.publish()
        await whole.fleet.load(publication)
        alone = only(whole, "engine-1")
        await alone.start()
        await alone.load(publication)
        return await whole.sample(SHORT), await whole.sample(SHORT, alone)

    two, one = whole.do(both())
    assert tokens(two) == tokens(one)
    assert len({tuple(ids) for group in tokens(one) for ids in group}) > 10  # seeds differ by sample and prompt


def test_weights_that_are_not_the_announced_ones_are_found_by_the_probe(whole: Bench) -> None:
    async def test() -> None:
        alone = only(whole, "engine-0")
        await alone.start()
        old = whole.publish()
        await alone.load(old)
        whole.move(seed=2)
        new = whole.publish()
        stale = Publication(new.manifest, old.chunks, new.probe)
        with pytest.raises(SyncError, match=rf"does not hold weights version {new.version}.*nats a token on average"):
            await alone.load(stale)

    whole.do(test())


def test_an_update_that_does_not_cover_the_model_is_refused_and_a_whole_one_mends_it(whole: Bench) -> None:
    async def test() -> None:
        alone = only(whole, "engine-0")
        await alone.start()
        handle = alone._members[0].handle
        good = whole.publish()
        part = replace(good.manifest, parameters=good.manifest.parameters[:-1])
        with pytest.raises(RayTaskError) as refused:
            await handle.load.remote(part, list(good.chunks), good.probe)
        assert isinstance(refused.value.cause, SyncError)
        assert "the update lacks 1 of" in str(refused.value.cause)
        assert (await handle.info.remote())["version"] == -1
        report = await handle.load.remote(good.manifest, list(good.chunks), good.probe)
        assert report.probe_max < AGREE

    whole.do(test())


def test_weights_that_arrive_while_tokens_are_sampled(whole: Bench) -> None:
    """Requests in flight go on with the new weights, and every token says which weights it came from."""
    bench = whole

    async def test() -> tuple[int, list[RolloutGroup]]:
        bench.move(seed=3)
        old = bench.publish()
        await bench.fleet.load(old)
        await bench.sample(SHORT)  # an engine's first steps are slow
        started = time.monotonic()
        await bench.sample(LONG)
        usual_s = time.monotonic() - started
        sampling = asyncio.ensure_future(bench.sample(LONG))
        await asyncio.sleep(0.3 * usual_s)
        bench.move(seed=4)
        new = bench.publish()
        assert new.version == old.version + 1
        reports = await bench.fleet.load(new)
        assert not sampling.done()
        assert all(report.probe_max < AGREE for report in reports)
        return new.version, await sampling

    new, groups = bench.do(test())
    completions = [c for g in groups for c in g.completions]
    mixed = [c for c in completions if set(c.versions.tolist()) == {new - 1, new}]
    assert mixed
    assert all((np.diff(c.versions) >= 0).all() for c in completions)
    after = [(c.versions == new, c, mine) for c, mine in zip(completions, bench.logprobs(groups), strict=True)]
    assert max(float(np.abs(c.logprobs - mine)[late].max()) for late, c, mine in after if late.any()) < AGREE
    # The check can fail: tokens from the old weights do not fit the new policy.
    assert max(float(np.abs(c.logprobs - mine)[~late].max()) for late, c, mine in after if not late.all()) > 0.05


def test_adapters_agree_with_the_learner(adapted: Bench) -> None:
    assert adapted.policy.has_adapter
    for seed in (5, 6):
        adapted.move(seed)
        publication = adapted.publish()
        assert publication.manifest.kind == "adapter"
        (report,) = adapted.do(adapted.fleet.load(publication))
        assert report.probe_max < AGREE
        assert report.num_bytes < 200_000  # the adapter alone; the model has more than half a million
        groups = adapted.do(adapted.sample(SHORT))
        assert largest(adapted, groups) < AGREE


def test_more_prompt_tokens_than_one_step_takes(whole: Bench) -> None:
    """vLLM takes 8192 tokens a step; a seeded prompt that is cut in two used to end an engine on CPU."""
    row, ids = whole.prompts[0].row, whole.prompts[0].token_ids
    long = tuple((ids * 140)[:140])
    asked = [Prompt(row, (*long[:-1], 10 + k), 8, 900 + 10 * k) for k in range(16)]  # 16 x 8 x 140 = 17,920 tokens

    async def test() -> list[RolloutGroup]:
        await whole.fleet.load(whole.publish())
        alone = only(whole, "engine-0")
        await alone.start()
        await alone.load(whole.publish())
        refs = await asyncio.gather(*alone.generate(asked, SHORT))
        found: list[RolloutGroup] = ray.get(list(refs))
        return found

    assert [len(group.completions) for group in whole.do(test())] == [8] * 16
