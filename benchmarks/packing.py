"""The learner's whole update with shared-prefix packing against padded rows, on one experience and one model.

Runs in this process, without Ray: `ppo_update` with group baseline, frozen reference and all weights trained. Prompts
and completions are real rows of the data; rewards are random. Also says how far the log-probs of both ways differ.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.settings import NEVER, ROOT, Settings, encoded_prompts, recipe, stage_of
from rlft_core.config.model import FreezeConfig
from rlft_core.config.online import PpoStage
from rlft_core.data import encode_target
from rlft_core.data.prepare import rows_of
from rlft_core.kl import FixedKl
from rlft_core.models.attention import attention_kind
from rlft_core.models.compute import Compute
from rlft_core.models.loading import frozen_policy, load_tokenizer, trainable_policy
from rlft_core.models.policy import Policy
from rlft_core.types import Batch, Completion, Prompt, RolloutGroup, Row, Score, ScoredGroup
from rlft_core.updates.collective import Alone
from rlft_core.updates.experience import flatten
from rlft_core.updates.optimizer import make_optimizer
from rlft_core.updates.passes import collect
from rlft_core.updates.ppo import PpoState, ppo_update


@dataclass(frozen=True, slots=True)
class Shape:
    """An experience: `num_groups` prompts of about `prompt_tokens`, `samples` completions of `completion_tokens` each.

    `completion_tokens` None takes the data's own outputs as they are: about 10 tokens.
    """

    name: str
    num_groups: int
    samples: int
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


SHORT = Shape("synopses: 8 x 8", num_groups=8, samples=8)
LONG = Shape("long prompts: 2 x 8", num_groups=2, samples=8, prompt_tokens=384, completion_tokens=24)


def packing(settings: Settings, shapes: Sequence[Shape] = (SHORT, LONG)) -> list[dict[str, Any]]:
    """One record for each shape."""
    run = recipe(settings, ROOT, max_lag=0)
    prompts = encoded_prompts(run, settings)
    tokenizer: Any = load_tokenizer(settings.model)
    outputs = [list(encode_target(tokenizer, row.output)) for row in rows_of(run.data, ROOT, run.seed).train]
    stage = parsed_stage(settings)
    return [_measure(settings, stage, shape, groups_of(shape, prompts, outputs)) for shape in shapes]


def parsed_stage(settings: Settings) -> PpoStage:
    """The recipe's stage with the group baseline instead of a critic: packing serves every pass alike."""
    stage = stage_of(recipe(settings, ROOT, max_lag=0))
    found: PpoStage = PpoStage.model_validate({**stage.model_dump(), "advantage": {"type": "rloo"}, "num_steps": NEVER})
    return found


def groups_of(shape: Shape, prompts: Sequence[list[int]], outputs: Sequence[list[int]]) -> list[ScoredGroup]:
    """Scored groups of real token ids; rewards and engine log-probs are drawn from a seeded generator."""
    rng = np.random.default_rng(0)
    groups: list[ScoredGroup] = []
    for number in range(shape.num_groups):
        prompt = prompts[number]
        if shape.prompt_tokens is not None:
            joined = [token for ids in prompts[number : number + 8] for token in ids]
            prompt = joined[: shape.prompt_tokens]
        chosen = [outputs[int(index)] for index in rng.integers(0, len(outputs), shape.samples)]
        if shape.completion_tokens is not None:
            chosen = [(output * shape.completion_tokens)[: shape.completion_tokens] for output in chosen]
        row = Row(f"row-{number}", "", "")
        group = RolloutGroup(Prompt(row, tuple(prompt), shape.samples, number), tuple(map(_completion, chosen)))
        groups.append(ScoredGroup(group, tuple(_score(len(c), float(rng.normal())) for c in chosen)))
    return groups


def _completion(token_ids: list[int]) -> Completion:
    length = len(token_ids)
    logprobs = np.full(length, -2.0, dtype=np.float32)
    return Completion(np.asarray(token_ids, dtype=np.int32), logprobs, np.zeros(length, dtype=np.int32), "stop", "")


def _score(num_tokens: int, value: float) -> Score:
    per_token = np.zeros(num_tokens, dtype=np.float32)
    per_token[-1] = value
    return Score(per_token, {"random": value})


def _measure(settings: Settings, stage: PpoStage, shape: Shape, groups: Sequence[ScoredGroup]) -> dict[str, Any]:
    experience = flatten(groups)
    found: dict[str, Any] = {
        "shape": shape.name,
        "prompt_tokens": float(np.mean([len(s.prompt) for s in experience.sequences])),
        "completion_tokens": experience.num_tokens / len(experience.lengths),
    }
    for name, packed in (("packed", True), ("padded", False)):
        compute = _compute(stage, packing=packed)
        found[f"{name}_positions"] = sum(micro.num_positions for micro in compute.rows(experience.sequences))
        found[f"{name}_s"] = _update_seconds(settings, stage, groups, compute)
    found["speedup"] = found["padded_s"] / found["packed_s"]
    found |= agreement(settings, stage, groups)
    return found


def _update_seconds(settings: Settings, stage: PpoStage, groups: Sequence[ScoredGroup], compute: Compute) -> float:
    """Median seconds of an update, after one that is not counted: it makes Adam's moments and chooses kernels."""
    policy = _policy(settings)
    reference = frozen_policy(settings.model, attention=compute.attention, compute=compute.dtype)
    optimizer = make_optimizer(policy, stage.optimizer)
    state = PpoState(policy, optimizer, reference, None, FixedKl(stage.kl.coefficient), compute, Alone())
    seconds = []
    for _ in range(1 + settings.repeats):
        started = time.perf_counter()
        ppo_update(state, Batch(tuple(groups), state.step), stage)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def agreement(settings: Settings, stage: PpoStage, groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """Mean and largest |difference| of packed and padded log-probs, in nats, in both precisions."""
    policy = _policy(settings)
    experience = flatten(groups)
    found: dict[str, float] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        packed, padded = (
            collect(
                lambda rows: (policy(rows).logprobs,),
                experience.sequences,
                experience.num_tokens,
                _compute(stage, packing=way, dtype=dtype),
                Alone(),
            )[0]
            for way in (True, False)
        )
        difference = (packed - padded).abs()
        found |= {
            f"{name}_difference_mean": float(difference.mean()),
            f"{name}_difference_max": float(difference.max()),
        }
    return found


def _compute(stage: PpoStage, *, packing: bool, dtype: torch.dtype = torch.bfloat16) -> Compute:
    cpu = torch.device("cpu")
    learner = stage.learner
    return Compute(cpu, dtype, attention_kind(cpu), packing, learner.max_row_tokens, learner.max_batch_tokens)


def _policy(settings: Settings) -> Policy:
    kind = attention_kind(torch.device("cpu"))
    return trainable_policy(
        settings.model, attention=kind, freeze=FreezeConfig(), lora=None, gradient_checkpointing=False
    )
