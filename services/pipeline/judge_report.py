"""How well a model that learned to judge does it: held-out pairs, in both orders, in an actor of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import ray
import torch

from rlft_core.config.pairs import JudgeRowsConfig
from rlft_core.config.stages import SftStage
from rlft_core.evaluation.judges import judge_report
from rlft_core.judging.causal_lm import CausalLmJudge
from rlft_core.judging.protocol import Answer, Comparison
from rlft_core.judging.template import JudgeTemplate, load_template
from rlft_core.negatives import Contrast
from services.cluster.placement import actor_options, environment, share_of_cores
from services.cluster.session import num_gpus_here
from services.cluster.waiting import answer
from services.pipeline.context import RunContext

RESULT = "judge.json"


class HeldOutJudge:
    """Loads the model and judges once."""

    def __init__(self, num_threads: int) -> None:
        torch.set_num_threads(num_threads)

    def report(
        self, model: str, template: JudgeTemplate, pairs: Sequence[Comparison], *, trust_remote_code: bool
    ) -> dict[str, Any]:
        """What `judge_report` says of pairs whose first answer is the better one. Raises JudgeError or ModelError."""
        judge = CausalLmJudge.load(model, template=template, trust_remote_code=trust_remote_code)
        found = judge_report(judge.compare(pairs), tasks=[pair.row.input for pair in pairs])
        return {"num_pairs": len(pairs), "num_truncated": judge.num_truncated, **found}


async def held_out_report(
    context: RunContext, stage: SftStage, config: JudgeRowsConfig, held_out: Sequence[Contrast]
) -> dict[str, Any]:
    """The report on the stage's model. Raises JudgeError, EngineError or DeadlineError."""
    pairs = [
        Comparison(contrast.row, Answer(contrast.row.output), Answer(negative.text, negative.ended))
        for contrast in held_out
        for negative in contrast.negatives
    ]
    threads = share_of_cores(1)
    options = actor_options(num_cpus=1, num_gpus=min(1, num_gpus_here()), env=environment(threads, context.base_dir))
    actor = ray.remote(HeldOutJudge).options(**options).remote(threads)
    template = load_template(config.template, base_dir=context.base_dir)
    trust = context.recipe.model.trust_remote_code
    try:
        ref = actor.report.remote(context.model_of(stage.name), template, pairs, trust_remote_code=trust)
        found: dict[str, Any] = await answer(
            ref, "held-out judge", f"judging {len(pairs)} pairs", stage.learner.step_deadline_s
        )
    finally:
        await asyncio.to_thread(ray.kill, actor, no_restart=True)
    return found


def told(name: str, found: dict[str, Any]) -> str:
    """A sentence for people."""
    accuracy = found["accuracy"]
    return (
        f"{name}: of {found['num_pairs']} held-out pairs it prefers the better text in {accuracy['mean']:.1%} "
        f"[{accuracy['low']:.1%}, {accuracy['high']:.1%}]; both orders agree in {found['agreement']:.0%}, and what stands first "
        f"is given {found['first']:.0%} of the probability (50 %: no bias)"
    )
